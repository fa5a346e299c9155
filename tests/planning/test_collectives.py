"""Collectives of a text, counted by hand; lines are copied from the TPU compiler or made after its own."""

import pytest

from vtzero.planning.collectives import exchanges

LOOPS = """\
HloModule jit_update, is_scheduled=true, num_partitions=8

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
  ROOT %gather.1 = bf16[4,64]{1,0} all-gather(%p), channel_id=7, replica_groups=mesh['a'=4,'b'=2] {'a'}, \
frontend_attributes={chain_id="0"}
}

%end (p: bf16[1,64]) -> bf16[4,64] {
  ROOT %gather.2 = bf16[4,64]{1,0} all-gather(%p), channel_id=7, replica_groups=mesh['a'=4,'b'=2] {'a'}, \
frontend_attributes={chain_id="0"}
}

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %one = bf16[4,64] fusion(%x), kind=kCustom, calls=%begin
  %two = bf16[4,64] fusion(%one), kind=kCustom, calls=%end
  ROOT %next = (s32[], f32[4]) tuple(%two)
}

%token (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %sum = f32[10]{0} all-reduce(%x), channel_id=3, replica_groups={{0,1},{2,3}}, to_apply=%add
  %layers = (s32[], f32[4]) while(%start), condition=%below, body=%body
  ROOT %next = (s32[], f32[4]) tuple(%sum)
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %first = bf16[4,64] fusion(%x), kind=kCustom, calls=%begin
  %tokens = (s32[], f32[4]) while(%start), condition=%never_told, body=%token
  %last = bf16[4,64] fusion(%one), kind=kCustom, calls=%end
  ROOT %scattered = f32[5]{0} reduce-scatter(%p), channel_id=9, replica_groups=[2,4]<=[8], dimensions={0}
}
"""


def program(*lines: str, before: str = "", devices: int = 4) -> str:
    body = "\n".join(f"  {line}" for line in lines)
    header = f"HloModule jit_step, is_scheduled=true, num_partitions={devices}\n"
    return f"{header}\n{before}\nENTRY %main (p: f32[4]) -> f32[4] {{\n{body}\n}}\n"


def only(*lines: str, before: str = "", devices: int = 4):
    (found,) = exchanges(program(*lines, before=before, devices=devices))
    return found


def test_loops_multiply_those_inside_them():
    found = {(one.kind, one.times): one for one in exchanges(LOOPS, trips=87)}
    # 10 numbers of 4 bytes to the sum and back, for each of 87 tokens.
    assert found["all-reduce", 87].received == 40
    # 4 x 64 numbers of 2 bytes, three quarters of them from others, in each of 8 layers of each token.
    assert found["all-gather", 8 * 87].received == 384
    scatter = found["reduce-scatter", 1]
    assert (scatter.group, scatter.received) == (4, 60)


WINDOWED = """\
%wide.windowed_dot_general_cond_ag.7 (wide.param.50: (bf16[1,1024,1024], u32[])) -> pred[] {
  %constant.4280 = u32[]{:T(128)} constant(4), metadata={op_name="jit(_sample)/ri,oi->ro/dot_general"}
  %wide.param.50 = (bf16[1,1024,1024]{2,1,0}, u32[]{:T(128)}) parameter(0)
  %get-tuple-element.3984 = u32[]{:T(128)} get-tuple-element(%wide.param.50), index=4
  ROOT %compare.121 = pred[]{:T(512)} compare(%get-tuple-element.3984, %constant.4280), direction=LT
}

%windows (state: (bf16[4,64], u32[])) -> (bf16[4,64], u32[]) {
  ROOT %passed = bf16[4,64]{1,0} collective-permute(%x), channel_id=3, source_target_pairs={{0,1},{1,0}}
}
"""


def test_a_product_that_is_computed_window_by_window_is_a_loop_too():
    condition = "%wide.windowed_dot_general_cond_ag.7"
    loop = f"%loop = (bf16[4,64], u32[]) while(%start), condition={condition}, body=%windows"
    passed = only(loop, before=WINDOWED)
    assert (passed.times, passed.received) == (4, 512)


def test_a_chain_of_fusions_is_one_collective_where_it_is_whole_and_another_where_it_is_peeled():
    times = [one.times for one in exchanges(LOOPS, trips=87) if one.kind == "all-gather"]
    assert sorted(times) == [1, 8 * 87]


def test_copies_of_an_unrolled_body_count_each_though_they_share_a_channel():
    line = "= bf16[2,64]{1,0} all-gather(%x), channel_id=83, replica_groups={{0,2},{1,3}}, dimensions={0}"
    assert len(exchanges(program(f"%gather.1 {line}", f"%gather.2 {line}"))) == 2
    chains = "".join(
        f"%part.{number} (p: bf16[1,64]) -> bf16[2,64] {{\n  ROOT %g.{number} {line}, "
        f'frontend_attributes={{chain_id="{number // 2}"}}\n}}\n\n'
        for number in range(4)
    )
    calls = [f"%f.{n} = bf16[2,64] fusion(%x), kind=kCustom, calls=%part.{n}" for n in range(4)]
    assert len(exchanges(program(*calls, before=chains))) == 2


def test_the_largest_come_first():
    totals = [one.total for one in exchanges(LOOPS, trips=87)]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", 8),
        ("mesh['axis_0'=1,'axis_1'=2,'axis_2'=4], device_ids=([4,2]T(1,0)) {'axis_1'}", 2),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1':(2)2}", 2),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("{}", 8),
    ],
)
def test_every_form_of_a_group_is_read(groups, size):
    line = f"%sum = f32[10]{{0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%add"
    found = only(line, devices=8)
    assert found.group == size
    assert found.received == pytest.approx(2 * 40 * (size - 1) / size)


@pytest.mark.parametrize(
    ("line", "received"),
    [
        # (operand, result, two words of context)
        (
            "%permute = (bf16[32,8]{1,0:T(8,128)(2,1)S(1)}, bf16[32,8]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}, "
            "u32[]{:S(2)}) collective-permute-start(%x), channel_id=117, source_target_pairs={{0,1},{1,0}}",
            512,
        ),
        ("%gather = (f32[4]{0}, f32[16]{0}) all-gather-start(%x), replica_groups={{0,1,2,3}}", 48),
        (
            "%gather = ((f32[4]{0}, bf16[2]{0}), (f32[16]{0}, bf16[8]{0})) all-gather-start(%x, %y), "
            "replica_groups={{0,1,2,3}}",
            60,
        ),
        ("%scatter = ((f32[16]{0}), f32[4]{0}) reduce-scatter-start(%x), replica_groups={{0,1,2,3}}", 48),
        # A sum returns its results alone, however many it has.
        ("%sum = f32[16]{0} all-reduce-start(%x), replica_groups={{0,1,2,3}}, to_apply=%add", 96),
        (
            "%sum = (f32[16]{0}, f32[16]{0}) all-reduce-start(%x, %y), replica_groups={{0,1,2,3}}, "
            "to_apply=%add",
            192,
        ),
    ],
)
def test_what_starts_an_exchange_counts_its_results(line, received):
    assert only(line).received == received


def test_a_sum_of_which_each_keeps_its_part_is_a_reduce_scatter():
    fusion = (
        "%all-reduce-scatter.2.clone.1 (p: bf16[16,8]) -> bf16[8,8] {\n"
        "  %sum = bf16[16,8]{1,0} all-reduce(%p), channel_id=1, replica_groups={{0,2},{1,3}}, to_apply=%add\n"
        "  ROOT %own = bf16[8,8]{1,0} dynamic-slice(%sum, %zero, %zero), dynamic_slice_sizes={8,8}\n}\n"
    )
    call = "%mine = bf16[8,8] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.2.clone.1"
    found = only(call, before=fusion)
    assert (found.kind, found.received) == ("reduce-scatter", 128)


def test_of_a_condition_the_branch_counts_that_exchanges_most():
    branches = "".join(
        f"%{name} (p: f32[4]) -> f32[4] {{\n  ROOT %s.{size} = f32[{size}]{{0}} all-reduce(%p), "
        f"replica_groups={{{{0,1}}}}, to_apply=%add\n}}\n\n"
        for name, size in (("small", 10), ("large", 100))
    )
    call = "%c = f32[4] conditional(%i, %x, %x), branch_computations={%small, %large}"
    assert only(call, before=branches).received == 400


def test_line_breaks_in_a_kernels_metadata_end_no_computation():
    metadata = 'frontend_attributes={kernel_metadata={\n"block_q": 128\n}}, metadata={}'
    kernel = f"%kernel = f32[2]{{0}} custom-call(%x), {metadata}"
    line = "%sum = f32[10]{0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add"
    assert only(kernel, line).received == 40


@pytest.mark.parametrize(
    ("dtype", "count"),
    [("pred", 10), ("s4", 5), ("f8e4m3fn", 10), ("bf16", 20), ("f16", 20), ("u32", 40), ("c64", 80)],
)
def test_every_number_has_its_width(dtype, count):
    line = f"%permute = {dtype}[10]{{0}} collective-permute(%x), source_target_pairs={{{{0,1}}}}"
    assert only(line).received == count


def test_a_number_of_unknown_width_is_named():
    with pytest.raises(ValueError, match="'posit16'"):
        only("%permute = posit16[10]{0} collective-permute(%x), source_target_pairs={{0,1}}")
