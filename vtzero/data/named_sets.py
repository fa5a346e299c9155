"""The training sets known by name: where the hub has them, and which columns their files have.

Sources: the data sets' cards, and the READMEs and loaders of turningpoint-ai/VisualThinker-R1-Zero,
Deep-Agent/R1-V, FanqingM/R1-Multimodal-Journey, EvolvingLMMs-Lab/open-r1-multimodal and arijitray1993/SAT.
Knows no rows.
"""

from dataclasses import dataclass

from vtzero.data.hub import HubSet
from vtzero.data.schemas import (
    GEO170K,
    GEO170K_CONVERSATIONS,
    GSM8K,
    MATH,
    MATH_ANSWERS,
    R1_V,
    SAT,
    Schema,
)


@dataclass(frozen=True)
class NamedSet:
    """A published data set. Its files have the columns of one of `schemas`; `without_types` are left out."""

    hub: HubSet
    schemas: tuple[Schema, ...]
    without_types: tuple[str, ...] = ()


# SAT's own names of what moves, from its loader and card; every other question is about one still scene.
_SAT_DYNAMIC = (
    "action_consequence",
    "action_sequence",
    "ego_movement",
    "goal_aim",
    "obj_movement",
    "perspective",
)

NAMED_SETS: dict[str, NamedSet] = {
    "sat": NamedSet(HubSet("array/SAT", None, "train"), (SAT,)),
    "sat_static": NamedSet(HubSet("array/SAT", None, "static"), (SAT,), _SAT_DYNAMIC),
    "clevr": NamedSet(HubSet("leonardPKU/clevr_cogen_a_train", None, "train"), (R1_V,)),
    "geoqa_r1v": NamedSet(HubSet("leonardPKU/GEOQA_R1V_Train_8K", None, "train"), (R1_V,)),
    # R1-Multimodal-Journey's own 20,000 questions lie in its repository as JSON without the pictures, which
    # its script joins to a parquet file; on the hub this copy of Geo170K has the pictures in its rows.
    "geo170k": NamedSet(
        HubSet("lmms-lab/LLaVA-OneVision-Data", "geo170k(qa)", "train"),
        (R1_V, GEO170K, GEO170K_CONVERSATIONS),
    ),
    "open_r1_8k": NamedSet(HubSet("lmms-lab/multimodal-open-r1-8k-verified", None, "train"), (R1_V,)),
    "gsm8k": NamedSet(HubSet("openai/gsm8k", "main", "train"), (GSM8K,)),
    "math": NamedSet(HubSet("DigitalLearningGmbH/MATH-lighteval", None, "train"), (MATH, MATH_ANSWERS)),
}
