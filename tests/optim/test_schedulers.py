import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as reference

from autotimm.optim.schedulers import Horizon, build_scheduler, list_schedulers, schedule_factor
from autotimm.runtime.errors import ConfigError

LR = 0.3


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)


def run(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int, every: int = 1) -> list[float]:
    """Learning rate seen by each optimizer step; the scheduler is stepped after ``every`` of them."""
    rates = []
    for done in range(1, steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if done % every == 0:
            scheduler.step()
    return rates


def trainer(epochs: int = 12, per_epoch: int = 10) -> Any:
    return SimpleNamespace(
        estimated_stepping_batches=epochs * per_epoch,
        num_training_batches=per_epoch,
        accumulate_grad_batches=1,
        check_val_every_n_epoch=1,
        lightning_module=SimpleNamespace(monitor="val/map"),
    )


def ours(name: str, kwargs: dict[str, Any] | None = None, epochs: int = 12, per_epoch: int = 10) -> list[float]:
    optimizer = sgd()
    config = build_scheduler(optimizer, name, trainer(epochs, per_epoch), kwargs)
    assert config is not None
    assert config["interval"] == "step"
    return run(optimizer, config["scheduler"], epochs * per_epoch)


def test_cosine_is_torchs() -> None:
    optimizer = sgd()
    expected = run(optimizer, reference.CosineAnnealingLR(optimizer, T_max=120, eta_min=0.1 * LR), 120)
    assert ours("cosine", {"min_lr_ratio": 0.1}) == pytest.approx(expected)


def test_cosine_warms_up_linearly() -> None:
    rates = ours("cosine", {"warmup_epochs": 2})
    assert rates[:20] == pytest.approx([LR * step / 21 for step in range(1, 21)])
    optimizer = sgd()
    rest = run(optimizer, reference.CosineAnnealingLR(optimizer, T_max=100), 100)
    assert rates[20:] == pytest.approx(rest)


def test_step_is_torchs() -> None:
    optimizer = sgd()
    expected = run(optimizer, reference.StepLR(optimizer, 5, 0.2), 120, every=10)
    assert ours("step", {"step_size": 5, "gamma": 0.2}) == pytest.approx(expected)
    assert ours("step")[-1] == pytest.approx(LR * 0.01)  # three thirds, two drops


def test_multistep_is_torchs() -> None:
    optimizer = sgd()
    expected = run(optimizer, reference.MultiStepLR(optimizer, [8, 11], 0.1), 120, every=10)
    assert ours("multistep", {"milestones": [8, 11]}) == pytest.approx(expected)
    assert ours("multistep") == pytest.approx(expected)  # the defaults, in a training of 12 epochs


def test_exponential_is_torchs() -> None:
    optimizer = sgd()
    expected = run(optimizer, reference.ExponentialLR(optimizer, 0.9), 120, every=10)
    assert ours("exponential", {"gamma": 0.9}) == pytest.approx(expected)


def test_onecycle_is_torchs() -> None:
    optimizer = sgd()
    cycle = reference.OneCycleLR(optimizer, max_lr=LR, total_steps=121, cycle_momentum=False)
    expected = run(optimizer, cycle, 120)
    optimizer = sgd()
    factor = schedule_factor("onecycle", Horizon(121, 10), {})
    assert run(optimizer, reference.LambdaLR(optimizer, factor), 120) == pytest.approx(expected)


@pytest.mark.parametrize("factor", [1, 2])
def test_cosine_with_restarts_is_torchs(factor: int) -> None:
    optimizer = sgd()
    expected = run(optimizer, reference.CosineAnnealingWarmRestarts(optimizer, T_0=30, T_mult=factor), 120)
    assert ours("cosine_with_restarts", {"first_cycle_epochs": 3, "cycle_factor": factor}) == pytest.approx(expected)


def test_yolox_has_its_corners() -> None:
    rates = ours("yolox", {"warmup_epochs": 2, "no_aug_epochs": 3})
    assert rates[0] == 0.0
    assert rates[10] == pytest.approx(LR / 4)
    assert rates[20] == pytest.approx(LR)
    assert rates[55] == pytest.approx(LR * 1.05 / 2)  # half-way down
    assert rates[90:] == pytest.approx([LR * 0.05] * 30)


def test_yolox_is_the_official_one(shared: Path) -> None:
    official = json.loads((shared / "yolox/nano_train/schedule_ema_optim.json").read_text())["yoloxwarmcos"]
    options = {name: official[name] for name in ("warmup_epochs", "no_aug_epochs", "min_lr_ratio")}
    per_epoch = official["iters_per_epoch"]
    horizon = Horizon(official["total_epochs"] * per_epoch, per_epoch)
    factor = schedule_factor("yolox", horizon, options)
    rates = [official["lr"] * factor(step) for step in official["iters"]]
    assert rates == pytest.approx(official["lrs"], rel=1e-9, abs=1e-15)


def test_the_yolox_recipe_ends_with_the_training() -> None:
    """Shorter than it is meant for: the same curve, compressed. Longer: as much warm-up and flat end, more between."""
    whole = schedule_factor("yolox", Horizon(300 * 20, 20), {"total_epochs": 300})
    short = schedule_factor("yolox", Horizon(30 * 20, 20), {"total_epochs": 300})
    assert [short(step) for step in range(600)] == pytest.approx([whole(10 * step) for step in range(600)])
    long = schedule_factor("yolox", Horizon(400 * 20, 20), {"total_epochs": 300})
    assert [long(step) for step in range(100)] == [whole(step) for step in range(100)]
    assert long(385 * 20) == 0.05 < long(384 * 20)


def plateau_of(kwargs: dict[str, Any], optimizer: torch.optim.Optimizer | None = None) -> Any:
    config = build_scheduler(optimizer or sgd(), "plateau", trainer(), kwargs)
    assert config is not None
    assert config["interval"] == "step"
    return config["scheduler"]


def test_plateau_is_torchs() -> None:
    values = [0.1, 0.2, 0.15, 0.19, 0.21, 0.2, 0.2, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1]
    options: dict[str, Any] = {"patience": 1, "factor": 0.3, "cooldown": 1, "min_lr": 0.01}
    optimizer, expected = sgd(), sgd()
    ours, theirs = plateau_of(options, optimizer), reference.ReduceLROnPlateau(expected, mode="max", **options)
    for value in values:
        optimizer.step()
        ours.step()
        ours.observe({"val/map": value, "val/other": 0.0})
        theirs.step(value)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected.param_groups[0]["lr"])
    assert optimizer.param_groups[0]["lr"] < LR / 10


def test_plateau_watches_what_it_is_told_to_and_warms_up() -> None:
    optimizer = sgd()
    plateau = plateau_of({"monitor": "val/loss", "patience": 0, "warmup_epochs": 0.3}, optimizer)
    assert run(optimizer, plateau, 5) == pytest.approx([LR / 4, LR / 2, 3 * LR / 4, LR, LR])
    plateau.observe({"val/loss": 1.0})
    plateau.observe({"val/loss": 1.1})
    assert optimizer.param_groups[0]["lr"] == pytest.approx(LR / 10)
    with pytest.raises(ConfigError, match="did you mean val/los"):
        plateau.observe({"val/los": 1.0})


def test_a_plateau_goes_on_where_it_was() -> None:
    first, second = sgd(), sgd()
    one = plateau_of({"patience": 1}, first)
    for value in (0.5, 0.4, 0.3, 0.3):
        first.step()
        one.step()
        one.observe({"val/map": value})
    other = plateau_of({"patience": 1}, second)
    second.load_state_dict(first.state_dict())
    other.load_state_dict(one.state_dict())
    for optimizer, plateau in ((first, one), (second, other)):
        optimizer.step()
        plateau.step()
        plateau.observe({"val/map": 0.3})
    assert one.reduction == pytest.approx(0.01)
    assert second.param_groups[0]["lr"] == first.param_groups[0]["lr"] == pytest.approx(LR / 100)


def test_none_is_no_schedule() -> None:
    assert build_scheduler(sgd(), "none", trainer()) is None


def test_a_class_by_its_dotted_path() -> None:
    description = {"class": "torch.optim.lr_scheduler.ConstantLR", "params": {"factor": 0.5}}
    config = build_scheduler(sgd(), description, trainer())
    assert config is not None
    assert isinstance(config["scheduler"], reference.ConstantLR)
    assert config["interval"] == "epoch"
    by_step = build_scheduler(sgd(), {**description, "interval": "step"}, trainer())
    assert by_step is not None
    assert by_step["interval"] == "step"


def test_onecycle_that_only_rises() -> None:
    rates = ours("onecycle", {"pct_start": 1.0})
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(LR)


def test_part_epochs_end_where_they_should() -> None:
    """0.3 / 0.1 is 2.9999999999999996."""
    factor = schedule_factor("step", Horizon(100, 10), {"step_size": 0.1, "gamma": 0.5})
    assert [factor(step) for step in range(6)] == [1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125]


@pytest.mark.parametrize("name", [name for name in list_schedulers() if name not in ("none", "plateau")])
@pytest.mark.parametrize("epochs", [1, 3, 20])
def test_every_schedule_stays_between_nothing_and_the_learning_rate(name: str, epochs: int) -> None:
    kwargs = {"warmup_epochs": 0.5, "no_aug_epochs": 0} if name == "yolox" else {}
    rates = ours(name, kwargs, epochs=epochs, per_epoch=1 if epochs == 1 else 4)
    assert all(0 <= rate <= LR * (1 + 1e-9) for rate in rates)


def test_a_checkpoint_holds_no_horizon() -> None:
    optimizer = sgd()
    short = build_scheduler(optimizer, "cosine", trainer(epochs=2))
    assert short is not None
    run(optimizer, short["scheduler"], 20)
    state = short["scheduler"].state_dict()
    resumed = sgd()
    longer = build_scheduler(resumed, "cosine", trainer(epochs=4))
    assert longer is not None
    longer["scheduler"].load_state_dict(state)
    resumed.step()
    longer["scheduler"].step()
    assert resumed.param_groups[0]["lr"] == pytest.approx(ours("cosine", epochs=4)[21])


@pytest.mark.parametrize(
    ("name", "kwargs", "says"),
    [
        ("cosin", {}, "did you mean cosine"),
        ("cosine", {"warmup": 1}, "warmup_epochs"),
        ("plateau", {"patiense": 1}, "patience"),
        ("cosine", {"warmup_epochs": -1}, "warmup_epochs is -1"),
        ("step", {"step_size": 0}, "step_size"),
        ("yolox", {}, "lower warmup_epochs"),
        ({"class": "torch.optim.lr_scheduler.StepLR"}, {}, "step_size"),
        ({"class": "torch.optim.lr_scheduler.StepLR", "interval": "day"}, {}, "must be epoch or step"),
        ({"class": "torch.optim.lr_scheduler.ReduceLROnPlateau"}, {}, "name it plateau"),
        ("plateau", {"factor": 2.0}, "Factor should be"),
        ("onecycle", {"pct_start": 1.5}, "pct_start in 0..1"),
    ],
)
def test_mistakes_are_named(name: str | dict[str, Any], kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_scheduler(sgd(), name, trainer(), kwargs)


def test_an_endless_training_has_no_schedule() -> None:
    endless = trainer()
    endless.estimated_stepping_batches = float("inf")
    with pytest.raises(ConfigError, match="max_epochs"):
        build_scheduler(sgd(), "cosine", endless)
