import torch
from torchvision.ops import box_iou

from autotimm.models.masks.proposals import choose_proposals

SIZE = (64, 96)
ANNOTATED = torch.tensor([[4.0, 4.0, 30.0, 30.0], [40.0, 10.0, 96.0, 64.0], [70.0, 2.0, 74.0, 6.0]])


def choose(predicted: torch.Tensor, limit: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return choose_proposals(predicted, torch.linspace(1, 0, len(predicted)), ANNOTATED, SIZE, limit)


def test_they_overlap_their_object_and_lie_inside() -> None:
    predicted = torch.cat((ANNOTATED + 1.0, ANNOTATED[1:2] + 5.0, torch.tensor([[0.0, 40.0, 20.0, 60.0]])))
    boxes, objects = choose(predicted)
    overlap = box_iou(boxes, ANNOTATED)
    assert (overlap[torch.arange(len(boxes)), objects] >= 0.5).all()
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= SIZE[1]).all()
    assert (boxes[:, 3] <= SIZE[0]).all()
    assert set(objects.tolist()) == {0, 1, 2}
    own = (boxes[:, None] == torch.tensor([41.0, 11.0, 96.0, 64.0])).all(dim=2).any()
    assert own, "a box of the network's own is among them"


def test_an_untrained_detector_leaves_the_annotated_boxes() -> None:
    boxes, objects = choose(torch.zeros(10, 4))
    assert len(boxes) > 3
    assert not (boxes[:, None] == ANNOTATED).all(dim=2).any(), "they are jittered"
    assert set(objects.tolist()) == {0, 1, 2}


def test_no_more_than_the_limit_and_none_without_objects() -> None:
    boxes, _ = choose(ANNOTATED.repeat(40, 1), limit=8)
    assert len(boxes) <= 8
    nothing = choose_proposals(torch.zeros(5, 4), torch.zeros(5), torch.zeros(0, 4), SIZE, 8)
    assert nothing.boxes.shape == (0, 4)
    assert nothing.objects.shape == (0,)
