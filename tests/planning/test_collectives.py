"""Collectives of a program's text, counted by hand."""

from vtzero.planning.collectives import exchanges

PROGRAM = """\
HloModule jit_update

%below (counter: (s32[], f32[4])) -> pred[] {
  %limit.1 = s32[]{:T(128)} constant(8)
  %counter = (s32[], f32[4]) parameter(0)
  %index = s32[] get-tuple-element(%counter), index=0
  ROOT %lt = pred[] compare(%index, %limit.1), direction=LT
}

%never_told (counter: (s32[], f32[4])) -> pred[] {
  %counter = (s32[], f32[4]) parameter(0)
  ROOT %flag = pred[] custom-call(%counter)
}

%begin (p: bf16[1,64]) -> bf16[4,64] {
  ROOT %gather.1 = bf16[4,64]{1,0} all-gather(%p), channel_id=7, replica_groups=mesh['a'=4,'b'=2] {'a'}
}

%end (p: bf16[1,64]) -> bf16[4,64] {
  ROOT %gather.2 = bf16[4,64]{1,0} all-gather(%p), channel_id=7, replica_groups=mesh['a'=4,'b'=2] {'a'}
}

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %one = bf16[4,64] fusion(%x), kind=kCustom, calls=%begin
  %two = bf16[4,64] fusion(%one), kind=kCustom, calls=%end
  ROOT %next = (s32[], f32[4]) tuple(%two)
}

%token (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %sum = f32[10]{0} all-reduce(%x), channel_id=3, replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %next = (s32[], f32[4]) tuple(%sum)
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %layers = (s32[], f32[4]) while(%start), condition=%below, body=%body
  %tokens = (s32[], f32[4]) while(%start), condition=%never_told, body=%token
  ROOT %scattered = f32[5]{0} reduce-scatter(%p), channel_id=9, replica_groups=[2,4]<=[8], dimensions={0}
}
"""


def test_loops_count_and_a_spread_collective_counts_once():
    gather, reduce, scatter = (
        next(one for one in exchanges(PROGRAM, trips=87) if one.kind == kind)
        for kind in ("all-gather", "all-reduce", "reduce-scatter")
    )
    # 4 x 64 numbers of 2 bytes, three quarters of them from others, in each of 8 layers.
    assert (gather.group, gather.received, gather.times) == (4, 384, 8)
    # 10 numbers of 4 bytes to the sum and back, for each of 87 tokens.
    assert (reduce.group, reduce.received, reduce.times) == (2, 40, 87)
    assert (scatter.group, scatter.received, scatter.times) == (4, 60, 1)
    assert len(exchanges(PROGRAM)) == 3


def test_the_largest_come_first():
    totals = [one.total for one in exchanges(PROGRAM, trips=87)]
    assert totals == sorted(totals, reverse=True)
