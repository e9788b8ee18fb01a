"""What every registered thing must do; a new one is tested by being there."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import typing

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

import sparseq
from sparseq.data import DATASETS, Request, load_data
from sparseq.graphs import GRAPHS, draw_edges
from sparseq.models import ALGEBRAS, MODELS, build, std_hparams
from sparseq.pruning import CRITERIA, SCHEDULES, prune
from sparseq.recipes import RECIPES
from sparseq.reports.figures import FIGURES
from sparseq.train import OPTIMIZERS, RATES
from tests.models.zoo import QUICK, parameter_count, quick_shape

over_algebras = pytest.mark.parametrize("algebra", ALGEBRAS)


REGISTRIES = [GRAPHS, CRITERIA, SCHEDULES, MODELS, DATASETS, RECIPES, OPTIMIZERS, RATES, FIGURES]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_registries_name_what_they_know(registry):
    assert registry.names()
    with pytest.raises(ValueError, match=rf"unknown {registry.kind} 'nothing'") as caught:
        registry.get("nothing")
    assert all(name in str(caught.value) for name in registry.names())


@pytest.mark.parametrize("name", FIGURES.names())
def test_figures_return_a_matplotlib_figure(name):
    assert typing.get_type_hints(FIGURES.get(name))["return"] is Figure


# with a size of 4 where they need one
GRAPH_NAMES = [
    f"{name}(4)" if "size" in GRAPHS.get(name).__dataclass_fields__ else name
    for name in GRAPHS.names()
]


@pytest.mark.parametrize("graph", GRAPH_NAMES)
class TestGraphs:
    def test_follow_the_seed_alone(self, graph):
        edges = draw_edges(graph, 24, 48, 8, 3)
        again = draw_edges(edges.graph, 24, 48, 8, 3)
        assert (again.matrix() == edges.matrix()).all()

    @pytest.mark.parametrize("layer", [sparseq.ExpanderLinear, sparseq.ExpanderQLinear])
    def test_make_layers_like_their_dense_twins(self, graph, layer):
        small = layer(96, 96, 8, graph, seed=2)
        x = torch.randn(5, 96)
        torch.testing.assert_close(small(x), small.to_dense()(x), rtol=1e-4, atol=1e-5)


def small_network(algebra="real"):
    return build("lenet_12", algebra=algebra, in_shape=(1, 8, 8), num_classes=10, seed=1)


def digit_batches(count=2):
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(20, 1, 8, 8, generator=generator) for _ in range(count)]
    return [(x, torch.randint(0, 10, (20,), generator=generator)) for x in draw]


@pytest.mark.parametrize("name", CRITERIA.names())
class TestCriteria:
    @over_algebras
    def test_keeps_the_fraction_asked_for(self, name, algebra):
        model = small_network(algebra)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        mask = self.prune(model, name)
        assert mask.kept == round(0.3 * mask.total)
        mask.check(model)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())

    def test_follows_the_seed_alone(self, name):
        model = small_network()
        first = self.prune(model, name)
        torch.rand(7)
        assert self.prune(model, name) == first

    def test_keeps_whole_quaternions_when_asked(self, name):
        mask = self.prune(small_network("quaternion"), name, granularity="quaternion")
        whole = [keep for keep in mask.values() if keep.dim() == 3]
        assert whole
        assert all(bool((keep == keep[:1]).all()) for keep in whole)

    @staticmethod
    def prune(model, name, **options):
        return prune(
            model, name, density=0.3, batches=digit_batches(), loss_fn=F.cross_entropy, **options
        )


# arguments without a default that a schedule may have
SCHEDULE_ARGUMENTS = {"rounds": 6, "density": 0.1}


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_schedules_fall_within_bounds(name):
    schedule = SCHEDULES.get(name)
    needed = [
        parameter.name
        for parameter in inspect.signature(schedule).parameters.values()
        if parameter.default is parameter.empty
    ]
    densities = schedule(**{argument: SCHEDULE_ARGUMENTS[argument] for argument in needed})
    assert densities
    assert all(0 < density <= 1 for density in densities)
    assert densities == sorted(densities, reverse=True)


@pytest.mark.parametrize(("name", "algebra"), QUICK)
class TestModels:
    def test_takes_the_shapes_asked_for(self, name, algebra):
        shape = quick_shape(name)
        model = build(name, algebra=algebra, in_shape=shape, num_classes=7)
        y = model(torch.randn(3, *shape))
        assert y.shape == (3, 7)
        y.square().sum().backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_weights_follow_the_seed_alone(self, name, algebra):
        state = torch.get_rng_state()
        models = [build(name, algebra=algebra, seed=seed) for seed in (3, 3, 4)]
        assert torch.equal(torch.get_rng_state(), state)
        one, same, other = (nn.utils.parameters_to_vector(m.parameters()) for m in models)
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_quaternions_need_fewer_weights(self, name, algebra):
        count = parameter_count(name, algebra)
        assert count < 0.35 * parameter_count(name) or algebra == "real"

    def test_survives_compression_and_a_file(self, name, algebra, tmp_path):
        shape = quick_shape(name)
        model = build(name, algebra=algebra, in_shape=shape).eval()
        mask = sparseq.prune(model, density=0.1)
        mask.apply_(model)
        small = sparseq.compress(model, mask, policy="sparse")
        x = torch.randn(5, *shape)
        torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)
        sparseq.save(small, tmp_path / "small.sparseq")
        assert torch.equal(sparseq.load(tmp_path / "small.sparseq")(x), small(x))


@pytest.mark.parametrize("name", MODELS.names())
def test_models_have_usual_hyperparameters(name):
    hparams = std_hparams(name)
    assert hparams.optimizer in OPTIMIZERS.names()
    assert hparams.lr_schedule in RATES.names()
    assert min(hparams.epochs, hparams.batch_size, hparams.lr) > 0


def read_or_complaint(source):
    try:
        return source.read(Request())
    except FileNotFoundError as error:
        return str(error)


@pytest.mark.parametrize("name", DATASETS.names())
class TestDataSets:
    def test_is_there_or_says_how_to_get_it(self, name):
        source = DATASETS.get(name)
        parts = read_or_complaint(source)
        if isinstance(parts, str):
            assert "SPARSEQ_DATA" in parts
            assert "--download" in parts
            return
        for split in parts:
            ((x, _),) = split.take(torch.arange(3)).batches(3, seed=0)
            assert (x.dtype, x.shape[1:]) == (torch.float32, source.in_shape)
            assert split.y.dtype == torch.int64
            assert 0 <= int(split.y.min()) <= int(split.y.max()) < source.num_classes

    def test_has_a_fake_twin(self, name):
        one, same = (load_data(f"fake:{name}", seed=2) for _ in range(2))
        source = DATASETS.get(name)
        assert (one.in_shape, one.num_classes) == (source.in_shape, source.num_classes)
        assert torch.equal(one.validation.x, same.validation.x)


def undocumented_fields(cls):
    """Fields whose next statement in the class is no text."""
    (node,) = ast.parse(inspect.getsource(cls)).body
    for field, after in itertools.pairwise([*node.body, ast.Pass()]):
        own = isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation)
        text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if own and not text:
            yield field.target.id


TINY = {"model": "lenet_12", "data": "digits", "epochs": 1, "rounds": 1, "trials": 1}


@pytest.mark.parametrize("name", RECIPES.names())
class TestRecipes:
    def test_fields_are_documented_and_fit_into_json(self, name):
        recipe = RECIPES.get(name)
        assert dataclasses.is_dataclass(recipe)
        assert json.loads(json.dumps(recipe().identity())) == recipe().identity()
        classes = [cls for cls in recipe.__mro__ if dataclasses.is_dataclass(cls)]
        silent = [name for cls in classes for name in undocumented_fields(cls)]
        assert not silent, "the text below a field is the help of its flag"

    def test_runs_and_keeps_its_folder(self, name, tmp_path):
        self.make(name, tmp_path / "run").run()
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        assert config == self.make(name, tmp_path / "run").identity()
        with pytest.raises(FileExistsError, match="another run"):
            self.make(name, tmp_path / "run", seed=5).run()

    @staticmethod
    def make(name, out, **changes):
        recipe = RECIPES.get(name)
        known = {field.name for field in dataclasses.fields(recipe)}
        settings = {**TINY, **changes}
        return recipe(out=out, **{key: settings[key] for key in settings if key in known})
