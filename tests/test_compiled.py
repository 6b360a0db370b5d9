"""What is read from a compiled program: which operations, how often, how large, along which axes."""

from __future__ import annotations

import jax
import pytest

from bytelm import compiled
from bytelm.sharding import AXES

MESH = jax.sharding.AbstractMesh((2, 2, 2), AXES)
PROGRAM = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(f32[] %a, f32[] %b)
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %gather.1 = f32[8,4]{1,0} all-gather(f32[4,4] %x), replica_groups=GROUPS, metadata={op_name="jit(f)/dot"}
  %in = (s32[]) while(%u), condition=%test, body=%deeper, backend_config={"known_trip_count":{"n":"3"}}
}

%deeper (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %moved = bf16[16]{0} collective-permute-start(%y), source_target_pairs={{0,1},{1,0}}
}

%test (p: (s32[], f32[8,4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[4,4]) -> f32[] {
  %loop = (s32[], f32[8,4]) while(%t), condition=%test, body=%body, backend_config=COUNT
  %all = (f32[], bf16[2,3]{1,0}) all-reduce(%a, %b), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
}
"""


def read(groups="[4,2]<=[2,4]T(1,0)", count='{"known_trip_count":{"n":"5"}}'):
    return compiled.collectives(PROGRAM.replace("GROUPS", groups).replace("COUNT", count), MESH)


def test_all_that_is_sent_is_read():
    gather, permute, reduce = read()
    assert (gather.kind, gather.parts, gather.times) == ("all-gather", (((8, 4), 128),), 5)
    assert (gather.axes, gather.name) == (("data",), "jit(f)/dot")
    assert (permute.kind, permute.size, permute.times, permute.axes) == (
        "collective-permute", 32, 15, ("tensor",),
    )  # fmt: skip
    assert (reduce.parts, reduce.size, reduce.times) == ((((), 4), ((2, 3), 12)), 16, 1)
    assert reduce.axes == AXES


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", ("tensor",)),
        ("{{0,2},{1,3},{4,6},{5,7}}", ("fsdp",)),
        ("{{0,4,2,6},{1,5,3,7}}", ("data", "fsdp")),
        ("[2,4]<=[4,2]T(1,0)", ("data", "fsdp")),
        ("[4,2]<=[8]", ("tensor",)),
        ("[1,8]<=[8]", AXES),
    ],
)
def test_axes(groups, axes):
    assert read(groups)[0].axes == axes


def test_a_loop_that_sends_must_say_how_often():
    with pytest.raises(ValueError, match="unknown length"):
        read(count="{}")
