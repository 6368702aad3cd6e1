"""What lifts a student's features to the teacher's shape during a stage; dropped when the stage ends.

Shape legend: B rows, C and D channels of student and teacher, W and H flat features, h and w sides of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cluster.errors import MismatchError


class MapAdapter(nn.Module):
    """A 1x1 convolution over channels, then average pooling to the teacher's sides.

    A student's map that is smaller than the teacher's is repeated by cells instead (nearest), never interpolated.
    """

    def __init__(self, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> None:
        super().__init__()
        self.sides = (int(teacher_shape[1]), int(teacher_shape[2]))
        self.channels = nn.Conv2d(student_shape[0], teacher_shape[0], 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """[B, D, h', w'] of the teacher's sides."""
        lifted_BDhw: Tensor = self.channels(x_BChw)
        return nn.functional.adaptive_avg_pool2d(lifted_BDhw, self.sides)


def build(student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Module:
    """An adapter between shapes without the batch axis (FitNets, arXiv 1412.6550, eq. 3): [W] -> [H] is linear,
    [C, h, w] -> [D, h', w'] a convolution of 1x1 and, where the teacher's map is smaller, the mean over its cells.

    Raises MismatchError for shapes that no adapter joins.
    """
    if len(student_shape) == len(teacher_shape) == 1:
        return nn.Linear(student_shape[0], teacher_shape[0])
    if len(student_shape) == len(teacher_shape) == 3:
        return MapAdapter(student_shape, teacher_shape)
    raise MismatchError(
        "no adapter joins these features", got=list(student_shape), expected=f"like {list(teacher_shape)}"
    )
