"""Optimisers by name, their arguments and limits, and groups of parameters."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from handful.errors import ArgumentError, TrainingError
from handful.train.choices import OPTIMIZERS
from handful.train.optimizers import (
    DEFAULT_LR,
    check_optimizer_arguments,
    default_lr,
    describe_optimizer,
    kernel_name,
    make_optimizer,
)
from handful.train.param_groups import make_param_groups

NO_SETTINGS = {"params", "lr", "foreach", "fused", "capturable", "differentiable"}
TORCH_CLASSES = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, Optimizer) and kind is not Optimizer
}


class RootMeanNorm(nn.Module):
    """A normalisation layer of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x / x.square().mean(-1, keepdim=True).add(1e-6).sqrt()


class Net(nn.Module):
    """One layer of each kind that matters to weight decay."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.first = nn.Linear(4, 4)
        self.batch_norm = nn.BatchNorm1d(4)
        self.layer_norm = nn.LayerNorm(4)
        self.mean_norm = RootMeanNorm()
        self.rnn = nn.RNN(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.batch_norm(self.first(self.embedding(x)))
        x = self.rnn(self.mean_norm(self.layer_norm(x)))[0]
        return self.head(x)


DECAYED = ["embedding.weight", "first.weight"]
DECAYED += ["rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"]


def make_net() -> Net:
    torch.manual_seed(0)
    return Net()


def make_mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def names_in(model: nn.Module, group: dict[str, Any]) -> list[str]:
    names = {param: name for name, param in model.named_parameters()}
    return [names[param] for param in group["params"]]


def options_of(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def train(model: nn.Module, optimizer: Optimizer, inputs: Tensor) -> list[Tensor]:
    for _ in range(5):

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = model(inputs).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
    return [p.detach().clone() for p in model.parameters()]


def all_equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# Names and arguments


def test_no_optimizer_of_torch_is_missing() -> None:
    assert TORCH_CLASSES.keys() <= {name for name, _ in OPTIMIZERS.values()}
    assert len({name for name, _ in OPTIMIZERS.values()}) == len(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_listed_argument_exists_and_no_other_changes_the_results(
    name: str,
) -> None:
    class_name, listed = OPTIMIZERS[name]
    if class_name not in TORCH_CLASSES:
        pytest.skip(f"torch {torch.__version__} has no {class_name}")
    theirs = set(inspect.signature(TORCH_CLASSES[class_name]).parameters) - NO_SETTINGS
    if name == "adam":  # With it Adam is AdamW, which has a name.
        theirs -= {"decoupled_weight_decay"}
    assert set(listed) == theirs


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_does_what_torch_does_with_the_same_kernel(name: str) -> None:
    kind = TORCH_CLASSES.get(OPTIMIZERS[name][0])
    if kind is None:
        pytest.skip(f"torch {torch.__version__} has no {OPTIMIZERS[name][0]}")
    if name == "sparse_adam":
        model: nn.Module = nn.Embedding(6, 4, sparse=True)
        inputs = torch.tensor([1, 3, 3])
    else:
        model = nn.Sequential(nn.Linear(5, 7, bias=False), nn.Linear(7, 2, bias=False))
        inputs = torch.linspace(-1, 1, 20).reshape(4, 5)
    other = copy.deepcopy(model)
    ours = make_optimizer(name, model, 0.01)
    assert type(ours) is kind
    flags = {k: v for k, v in ours.defaults.items() if k in ("fused", "foreach")}
    theirs = kind(other.parameters(), lr=0.01, **flags)  # type: ignore[call-arg]
    assert all_equal(train(model, ours, inputs), train(other, theirs, inputs))
    start = ours.state_dict()["param_groups"][0]
    assert start == theirs.state_dict()["param_groups"][0]


def test_an_optimizer_that_this_torch_lacks_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.optim, "Adamax")
    with pytest.raises(ArgumentError, match=r"must be one that torch .* has; got 'ada"):
        check_optimizer_arguments("adamax")


def test_an_argument_that_this_torch_lacks_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Older(torch.optim.Adamax):
        def __init__(self, params: Any, lr: float = 0.1) -> None:
            super().__init__(params, lr)

    monkeypatch.setattr(torch.optim, "Adamax", Older)
    with pytest.raises(ArgumentError, match="eps of optimizer 'adamax' must be left"):
        check_optimizer_arguments("adamax:eps=1e-3")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("adm", "Did you mean 'adam'"),
        ("sgd:momentun=1", "Did you mean 'momentum'"),
        ("sgd:momentum=x", "momentum of optimizer 'sgd' must be a finite number; got"),
        ("sgd:momentum=nan", "must be a finite number; got nan"),
        ("sgd:momentum=true", "must be a finite number; got True"),
        ("sgd:momentum=-1", "cannot be made: Invalid momentum"),
        ("sgd:nesterov=true", "cannot be made: Nesterov momentum requires"),
        ("sgd:nesterov=1", "nesterov of optimizer 'sgd' must be true or false; got 1"),
        ({"name": "adam", "betas": [0.9, 1.5]}, "Invalid beta parameter at index 1"),
        ({"name": "adam", "betas": [0.9]}, "must be 2 finite numbers; got .0.9"),
        ({"name": "adam", "betas": [0.9, None]}, "must be 2 finite numbers"),
        ({"name": "adam", "betas": [0.9, "x"]}, "must be 2 finite numbers"),
        ("adam:betas=0.9", r"Torch's own are \(0.9, 0.999\)"),
        ({"name": "adafactor", "eps": [None, None]}, "must be 2 finite numbers"),
        ("lbfgs:max_iter=0", "max_iter of .* must be a whole number from 1 on; got 0"),
        ("lbfgs:history_size=2.5", "must be a whole number from 1 on; got 2.5"),
        ("lbfgs:max_eval=true", "must be a whole number from 1 on; got True"),
        ("lbfgs:line_search_fn=wolfe", "must be one of strong_wolfe; got 'wolfe'"),
    ],
)
def test_a_wrong_argument_is_refused_before_there_is_a_model(
    value: Any, match: str
) -> None:
    with pytest.raises(ArgumentError, match=match):
        check_optimizer_arguments(value)


@pytest.mark.parametrize(
    "value",
    [
        {"name": "adafactor", "eps": [None, 1e-3]},
        {"name": "lbfgs", "max_eval": None, "line_search_fn": "strong_wolfe"},
        {"name": "rprop", "step_sizes": [1e-5, 1]},
        "asgd:t0=10",
        torch.optim.SGD,
        torch.optim.SGD([torch.zeros(1, requires_grad=True)]),
    ],
)
def test_right_arguments_pass(value: Any) -> None:
    check_optimizer_arguments(value)


def test_a_wrong_rate_is_refused() -> None:
    with pytest.raises(ArgumentError, match="cannot be made: Invalid learning rate"):
        check_optimizer_arguments("adam", -1.0)


def test_the_rate_is_the_default_where_none_is_given() -> None:
    model = make_mlp()
    assert make_optimizer("sgd", model, None).param_groups[0]["lr"] == DEFAULT_LR
    assert make_optimizer("lbfgs", model, None).param_groups[0]["lr"] == 1.0
    assert default_lr("adam") == DEFAULT_LR


# Limits


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon")
def test_muon_lists_the_parameters_that_are_not_2d() -> None:
    model = make_mlp()
    with pytest.raises(
        ArgumentError, match=r"got 0.bias \(7,\), 2.bias \(3,\)\. Freez"
    ):
        make_optimizer("muon", model, 0.01)
    for layer in (model[0], model[2]):
        layer.bias.requires_grad_(False)  # type: ignore[operator, union-attr]
    assert kernel_name(make_optimizer("muon", model, 0.01)) == "Muon (default)"


def test_lbfgs_takes_one_group() -> None:
    model = make_mlp()
    with pytest.raises(ArgumentError, match=r"must make one group for .*; got 2"):
        make_optimizer("lbfgs", model, 1, param_groups={"0.*": {"lr_factor": 2}})
    made = make_optimizer("lbfgs", model, 1, param_groups={"*": {"lr_factor": 2}})
    assert made.param_groups[0]["lr"] == 2


def test_a_model_without_parameters_to_train_is_refused() -> None:
    model = make_mlp().requires_grad_(False)
    for value in ("sgd", torch.optim.SGD):
        with pytest.raises(TrainingError, match="it has none to train"):
            make_optimizer(value, model, None)


# Objects and functions


def test_an_object_is_returned_and_a_function_given_what_can_be_trained() -> None:
    model = make_mlp()
    model[0].bias.requires_grad_(False)  # type: ignore[operator, union-attr]
    made = torch.optim.SGD(model.parameters())
    assert make_optimizer(made, model, None) is made
    other = make_optimizer(lambda p: torch.optim.Adam(p, lr=3.0), model, None)
    assert [len(group["params"]) for group in other.param_groups] == [3]
    assert other.param_groups[0]["lr"] == 3.0


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"lr": 0.1}, "lr must be left out when optimizer is an object; got 0.1"),
        ({"param_groups": {}}, "param_groups must be left out .*; got {}"),
        ({"decay_biases_and_norms": False}, "decay_biases_and_norms must be left out"),
    ],
)
def test_an_object_or_function_takes_neither_rate_nor_groups(
    given: dict[str, Any], match: str
) -> None:
    model = make_mlp()
    options = {"lr": None, **given}
    for value in (torch.optim.SGD(model.parameters()), torch.optim.SGD):
        with pytest.raises(ArgumentError, match=match):
            make_optimizer(value, model, **options)


def test_a_description_is_read_back() -> None:
    choice = {"name": "adam", "betas": [0.8, 0.9]}
    assert describe_optimizer(choice) == choice
    assert describe_optimizer("adam") == "adam"
    assert describe_optimizer(torch.optim.SGD) == "SGD"


# Kernels


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("sgd", "SGD (fused)"),
        ("adam", "Adam (fused)"),
        ("adamw", "AdamW (fused)"),
        ("adagrad", "Adagrad (fused)"),
        ("rmsprop", "RMSprop (foreach)"),
        ("nadam", "NAdam (default)"),
    ],
)
def test_the_fastest_kernel_is_chosen(name: str, kernel: str) -> None:
    assert kernel_name(make_optimizer(name, make_mlp(), 0.01)) == kernel


def test_a_large_model_is_updated_one_tensor_after_the_other() -> None:
    for size, kernel in ((100_000, "foreach"), (100_001, "default")):
        model = nn.Linear(size, 1, bias=False)
        assert kernel_name(make_optimizer("adamax", model, 0.1)) == f"Adamax ({kernel})"


@pytest.mark.parametrize("name", ["adadelta", "adamax", "rmsprop"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_foreach_kernels_give_the_defaults_results(
    name: str, dtype: torch.dtype
) -> None:
    model = make_mlp().to(dtype)
    other = copy.deepcopy(model)
    inputs = torch.linspace(-1, 1, 20, dtype=dtype).reshape(4, 5)
    args: dict[str, Any] = {"weight_decay": 0.1}
    if name == "rmsprop":
        args |= {"momentum": 0.9, "centered": True}
    ours = make_optimizer({"name": name, **args}, model, 0.05)
    assert ours.defaults["foreach"] is True
    theirs = type(ours)(other.parameters(), lr=0.05, **args)  # type: ignore[call-arg]
    assert all_equal(train(model, ours, inputs), train(other, theirs, inputs))


@pytest.mark.parametrize("name", ["sgd", "adagrad"])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_sparse_gradients_are_left_to_a_kernel_that_takes_them(name: str) -> None:
    model = nn.Embedding(6, 4, sparse=True)
    before = model.weight.detach().clone()
    train(model, make_optimizer(name, model, 0.1), torch.tensor([1, 3]))
    changed = (model.weight != before).any(1)
    assert changed.tolist() == [False, True, False, True, False, False]


def test_complex_parameters_are_left_to_a_kernel_that_takes_them() -> None:
    model = nn.Linear(2, 2, dtype=torch.complex64)
    for name in ("sgd", "rmsprop"):
        assert kernel_name(make_optimizer(name, model, 0.1)).endswith("(default)")


# Groups


def test_without_options_one_group_holds_all_in_the_models_order() -> None:
    model = make_net()
    for groups in (None, {}):
        (group,) = make_param_groups(model, groups=groups)
        assert list(group) == ["params"]
        assert all(
            a is b for a, b in zip(group["params"], model.parameters(), strict=True)
        )


def test_options_of_matching_patterns_are_merged_and_later_ones_win() -> None:
    model = make_mlp()
    groups = {
        "*.weight": {"weight_decay": 0.1, "betas": [0.8, 0.9]},
        "2.*": {"weight_decay": 0.2, "lr": 0.5},
        "?.weight": {"lr_factor": 3},
    }
    made = make_param_groups(model, groups=groups, lr=0.01)
    shown = [(names_in(model, group), options_of(group)) for group in made]
    assert shown == [
        (["0.weight"], {"weight_decay": 0.1, "betas": (0.8, 0.9), "lr": 0.03}),
        (["0.bias"], {}),
        (["2.weight"], {"weight_decay": 0.2, "betas": (0.8, 0.9), "lr": 0.03}),
        (["2.bias"], {"weight_decay": 0.2, "lr": 0.5}),
    ]
    assert groups["?.weight"] == {"lr_factor": 3}


def test_parameters_with_the_same_options_share_a_group() -> None:
    model = make_mlp()
    groups = {"*.bias": {"weight_decay": 0.0}, "0.weight": {"weight_decay": 0}}
    made = make_param_groups(model, groups=groups)
    assert [names_in(model, group) for group in made] == [
        ["0.weight", "0.bias", "2.bias"],
        ["2.weight"],
    ]


def test_patterns_heed_case() -> None:
    model = nn.ModuleDict({"Head": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    made = make_param_groups(model, groups={"head.*": {"lr": 0.1}})
    assert names_in(model, made[1]) == ["head.weight", "head.bias"]


def test_a_tied_parameter_comes_once_and_answers_to_each_name() -> None:
    model = nn.ModuleDict({"enter": nn.Embedding(5, 3), "leave": nn.Linear(3, 5)})
    model["leave"].weight = model["enter"].weight
    (only,) = make_param_groups(model)
    assert len(only["params"]) == 2
    made = make_param_groups(model, groups={"leave.weight": {"lr": 0.1}})
    assert [names_in(model, g) for g in made] == [["enter.weight"], ["leave.bias"]]


def test_frozen_parameters_are_left_out() -> None:
    model = make_mlp()
    model[0].weight.requires_grad_(False)  # type: ignore[operator, union-attr]
    made = make_param_groups(model, groups={"0.*": {"lr": 0.1}})
    assert [names_in(model, g) for g in made] == [["0.bias"], ["2.weight", "2.bias"]]


def test_biases_and_norms_are_spared_decay() -> None:
    model = make_net()
    made = make_param_groups(model, decay_biases_and_norms=False)
    decayed, spared = made
    assert options_of(decayed) == {}
    assert options_of(spared) == {"weight_decay": 0.0}
    assert names_in(model, decayed) == DECAYED
    every = [name for name, _ in model.named_parameters()]
    assert names_in(model, spared) == [name for name in every if name not in DECAYED]
    assert "mean_norm.gain" in names_in(model, spared)
    assert "rnn.bias_hh_l0" in names_in(model, spared)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm1d(4, affine=True),
        nn.LayerNorm(4),
        nn.RMSNorm(4),
        type("Scale", (nn.LayerNorm,), {})(4),
    ],
)
def test_every_kind_of_norm_is_spared_decay(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), layer)
    decayed, spared = make_param_groups(model, decay_biases_and_norms=False)
    assert names_in(model, decayed) == ["0.weight"]
    assert "1.weight" in names_in(model, spared)


def test_a_pattern_wins_over_the_sparing_of_biases() -> None:
    model = make_mlp()
    groups = {"2.bias": {"weight_decay": 0.3}}
    made = make_param_groups(model, groups=groups, decay_biases_and_norms=False)
    assert [options_of(g).get("weight_decay") for g in made] == [None, 0.0, 0.3]


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ({"heed.*": {"lr": 1}}, "got 'heed.*', which matches none of 4: 0.weight, 0.b"),
        ({"0": {"lr": 1}}, "write 'head.*', not 'head'"),
        ({"0.*": {"lr": 1, "lr_factor": 2}}, "must have lr or lr_factor; got both"),
        ({"0.*": {"lr_factor": 0}}, "lr_factor of .* must be a finite number above 0"),
        ({"0.*": {"lr_factor": "2"}}, "must be a finite number above 0; got '2'"),
        ({"0.*": {"lr_factor": True}}, "must be a finite number above 0; got True"),
        ({"0.*": {"lr": -1}}, r"lr of param_groups\['0.\*'\] must be a finite number"),
        ({"0.*": {"params": []}}, "must leave out 'params'"),
        (
            {"0.*": 0.1},
            r"param_groups\['0.\*'\] must map a pattern to options; got 0.1",
        ),
        ({0: {"lr": 1}}, "must map a pattern to options"),
        ([("0.*", {"lr": 1})], "param_groups must map patterns to options"),
    ],
)
def test_wrong_groups_are_refused(groups: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        make_param_groups(make_mlp(), groups=groups, lr=0.1)


def test_a_factor_without_a_rate_is_refused() -> None:
    with pytest.raises(ArgumentError, match="lr must be given beside the lr_factor"):
        make_param_groups(make_mlp(), groups={"0.*": {"lr_factor": 2}})


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("sgd", {"betas": [0.9, 0.9]}, "must be one of dampening, lr, lr_factor, maxi"),
        ("sgd", {"momentun": 0.9}, "Did you mean 'momentum'"),
        (
            "adam",
            {"fused": False},
            "an option of param_groups.* must be one of amsgrad",
        ),
        ("adam", {"betas": [0.9, 2]}, "param_groups make a group with .* Invalid beta"),
        ("adam", {"betas": [0.9]}, "must be 2 finite numbers"),
        ("sgd", {"weight_decay": "x"}, "weight_decay of .* must be a finite number"),
        ("sgd", {"nesterov": True}, "Nesterov momentum requires a momentum"),
        ("adagrad", {"initial_accumulator_value": 1.0}, "must be one of eps"),
    ],
)
def test_options_that_the_optimizer_does_not_take_are_refused(
    name: str, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ArgumentError, match=match):
        make_optimizer(name, make_mlp(), 0.1, param_groups={"0.*": options})


def test_options_are_checked_as_merged() -> None:
    groups = {"*": {"nesterov": True}, "0.*": {"momentum": 0.5}}
    made = make_optimizer("sgd:momentum=0.9", make_mlp(), 0.1, param_groups=groups)
    assert [g["momentum"] for g in made.param_groups] == [0.5, 0.9]
    assert all(g["nesterov"] for g in made.param_groups)


def test_sparing_biases_without_weight_decay_is_refused() -> None:
    with pytest.raises(ArgumentError, match="This optimiser has no weight decay"):
        make_optimizer("rprop", make_mlp(), 0.1, decay_biases_and_norms=False)


@pytest.mark.parametrize("name", ["sgd", "adamw", "adagrad", "rmsprop", "nadam"])
def test_training_equals_torch_with_the_same_groups(name: str) -> None:
    model, other = make_net(), make_net()
    inputs = torch.tensor([[0, 1], [2, 3], [5, 5]]).flatten()
    ours = make_optimizer(
        f"{name}:weight_decay=0.2",
        model,
        0.01,
        param_groups={"head.*": {"lr_factor": 10}, "embedding.*": {"lr": 0.002}},
        decay_biases_and_norms=False,
    )
    named = dict(other.named_parameters())
    ends = {"embedding.weight": {"lr": 0.002}, "head.weight": {"lr": 0.1}}
    middle = [n for n in named if n not in (*ends, "head.bias")]
    groups: list[dict[str, Any]] = [
        {"params": [named["embedding.weight"]], "lr": 0.002},
        {"params": [named[n] for n in middle if n in DECAYED]},
        {"params": [named[n] for n in middle if n not in DECAYED], "weight_decay": 0.0},
        {"params": [named["head.weight"]], "lr": 0.01 * 10},
        {"params": [named["head.bias"]], "lr": 0.01 * 10, "weight_decay": 0.0},
    ]
    flags = {k: v for k, v in ours.defaults.items() if k in ("fused", "foreach")}
    theirs = type(ours)(groups, lr=0.01, weight_decay=0.2, **flags)  # type: ignore[call-arg]
    assert all_equal(train(model, ours, inputs), train(other, theirs, inputs))
    assert ours.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]
