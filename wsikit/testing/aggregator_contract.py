"""What every aggregator promises, as checks that a third party can run on its own.

``check_aggregator(create)`` runs all clauses; :data:`CLAUSES` has them by name, for a parametrised test.
``create`` is called without arguments, or with ``classes=`` alone if it takes that; it builds a model on the CPU, and
draws its weights from torch's own generator, which the checks seed and give back as it was.
"""

from __future__ import annotations

import copy
import functools
import inspect
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wsikit.aggregators.base import Aggregator, AggregatorOutput
from wsikit.aggregators.rollout import attention_rollout
from wsikit.layers.packed import bag_sizes, pack, pad, segment_sum, unpack
from wsikit.testing.live_storages import LiveStorages
from wsikit.testing.random_bags import SIZES, Bags, make_bags

Create = Callable[..., Aggregator]
Clause = Callable[[Create], None]

TOLERANCE = 1e-5
"""Largest difference between two ways to the same answer, in units of the larger of 1 and the largest value."""

MANY_INSTANCES = 5_000
MEMORY_MIB = 1024
"""What forward and backward of one bag of ``MANY_INSTANCES`` may hold at once, beside the model and its input."""

WHOLE_SLIDE_INSTANCES = 50_000
WHOLE_SLIDE_MIB = 8192
"""The same for a bag as long as a large slide; see :func:`check_whole_slide`."""

CLAUSES: dict[str, Clause] = {}
"""Every clause by name: a function that takes ``create`` and raises AssertionError where the clause is broken."""


def check_aggregator(create: Create) -> None:
    """Check every clause of the contract.

    Args:
        create: Builds the model, such as ``functools.partial(MyModel, in_dim=32)``; small widths are quick.

    Raises:
        AssertionError: With the name of the first broken clause, and what was found.

    Example:
        >>> from wsikit.aggregators.registry import create_aggregator
        >>> check_aggregator(functools.partial(create_aggregator, "mean", in_dim=8))
    """
    for clause in CLAUSES.values():
        clause(create)


def _clause(check: Clause) -> Clause:
    """Enter a check into ``CLAUSES``: it runs on a copy of the generator, and its errors name it."""
    name = check.__name__

    @functools.wraps(check)
    def clause(create: Create) -> None:
        with torch.random.fork_rng(devices=[]):
            _seed(0)
            try:
                check(create)
            except AssertionError as broken:
                raise AssertionError(f"clause {name!r}: {broken}") from None
            except Exception as error:
                error.add_note(f"while checking clause {name!r} of the aggregator contract")
                raise

    CLAUSES[name] = clause
    return clause


@_clause
def output_is_as_declared(create: Create) -> None:
    """Shapes, types and attention are as ``out_dim``, ``classes`` and the card say; all is finite."""
    model = create().eval()
    bags = make_bags(model)
    output = _run(model, bags)
    count, rows = len(SIZES), len(bags.x)
    classes = () if model.classes is None else (model.classes,)
    expected = (count, *classes, model.out_dim)
    assert output.embedding.shape == expected, f"embedding of shape {tuple(output.embedding.shape)}, not {expected}"
    assert output.embedding.dtype == torch.float32, f"embedding of type {output.embedding.dtype}, not float32"
    has = output.attention is not None
    assert has == model.card.attention, f"the card says attention={model.card.attention}, the output has it: {has}"
    if output.attention is not None:
        shape = tuple(output.attention.shape)
        assert shape[:1] == (rows,), f"attention of shape {shape}, not ({rows},) or ({rows}, K)"
        assert len(shape) <= 2, f"attention of shape {shape}, not ({rows},) or ({rows}, K)"
    if output.instance_logits is not None:
        assert len(output.instance_logits) == rows, f"{len(output.instance_logits)} instance logits of {rows} rows"
    if output.bag_logits is not None:
        assert len(output.bag_logits) == count, f"{len(output.bag_logits)} bag logits of {count} bags"
    if output.penalty is not None:
        assert output.penalty.shape == (count,), f"penalty of shape {tuple(output.penalty.shape)}, not ({count},)"
    for part, value in _parts(output).items():
        assert value.isfinite().all(), f"{part} is not finite"
    if not model.card.uses_grid:
        model(bags.x, offsets=bags.offsets, edges=bags.edges)  # must run without


@_clause
def attention_is_a_distribution(create: Create) -> None:
    """Attention is non-negative and sums to 1 over each bag."""
    model = create().eval()
    bags = make_bags(model)
    attention = _run(model, bags).attention
    if attention is None:
        return
    assert attention.min() >= 0, f"attention goes down to {float(attention.detach().min()):.3g}"
    for b, error in enumerate(_errors_of_sum(attention, bags)):
        assert error <= TOLERANCE, f"attention of bag {b} misses a sum of 1 by {error:.3g}"


@_clause
def layouts_agree(create: Create) -> None:
    """Packed, padded and one by one are the same answer: no bag sees another, or its own padding."""
    model = create().eval()
    bags = make_bags(model)
    packed = _run(model, bags)
    x, mask = pad(bags.x, bags.offsets)
    padded = _packed(model(x, mask=mask, grid=pad(bags.grid, bags.offsets)[0], edges=bags.edges), mask)
    _assert_same(packed, padded, "packed and padded bags")
    alone = [bags.bag(b) for b in range(len(SIZES))]
    singles = [_parts(model(bag.x, grid=bag.grid, edges=bag.edges)) for bag in alone]
    for part, value in _parts(packed).items():
        together = torch.cat([single[part] for single in singles])
        _assert_close(value, together, f"{part} of packed bags and of the bags one by one")


@_clause
def padding_does_not_matter(create: Create) -> None:
    """What stands at padding, and where padding stands, changes nothing, and attention there is 0."""
    model = create().eval()
    bags = make_bags(model)
    expected = _run(model, bags)
    mask = pad(bags.x, bags.offsets)[1]
    holes = torch.stack([mask, ~mask], dim=2).flatten(1)  # valid first, then padding, in turn: (B, 2 Nmax)
    holes[:, 1::2] = False
    for where, kept in {"at the end": mask, "between the instances": holes}.items():
        x, grid = unpack(bags.x, kept), unpack(bags.grid, kept)
        x[~kept], grid[~kept] = 1e4, 10_000
        output = model(x, mask=kept, grid=grid, edges=bags.edges)
        _assert_same(expected, _packed(output, kept), f"bags with garbage in the padding {where}")
        if output.attention is not None:
            assert not output.attention[~kept].any(), f"attention at padding {where} is not 0"


@_clause
def order_is_as_declared(create: Create) -> None:
    """Instances in another order give the same answer, unless the card's order is 'sequence'."""
    model = create().eval()
    bags = make_bags(model)
    order = torch.cat([torch.randperm(size) + start for start, size in zip(bags.offsets.tolist(), SIZES, strict=False)])
    expected, found = _run(model, bags), _run(model, bags.reordered(order))
    if model.card.order == "invariant":
        for part, value in _parts(expected).items():
            value = value if part in ("embedding", "bag_logits", "penalty") else value[order]
            _assert_close(value, _parts(found)[part], f"{part} of the same instances in another order")
    else:
        change = float((expected.embedding - found.embedding).detach().abs().max())
        assert change > TOLERANCE, "the card says order='sequence', but another order changes nothing; say 'invariant'"


@_clause
def one_instance_is_enough(create: Create) -> None:
    """A bag of one instance has an answer, in evaluation and in training, and all its attention."""
    model = create()
    bag = make_bags(model, (1,))
    for training in (True, False):
        output = _run(model.train(training), bag)
        for part, value in _parts(output).items():
            assert value.isfinite().all(), f"{part} of one instance is not finite (training: {training})"
        if training:
            _backward(_objective(model, output))
        elif output.attention is not None:
            _assert_close(output.attention, torch.ones_like(output.attention), "attention of one instance and 1")


@_clause
def gradients_reach_every_parameter(create: Create) -> None:
    """Embedding, logits and the model's own loss together depend on each parameter that asks for a gradient."""
    model = create().train()
    for seed in range(3):  # a unit may be off, or an instance dropped, by chance
        output = _run(model, make_bags(model, seed=seed))
        _backward(_objective(model, output))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"no gradient reaches parameter {name!r}: it is not used"
            assert parameter.grad.isfinite().all(), f"the gradient of parameter {name!r} is not finite"
            assert parameter.grad.any(), f"the gradient of parameter {name!r} is 0: it changes nothing"


@_clause
def same_seed_same_answer(create: Create) -> None:
    """The same seed gives the same weights, and the same answer in training, to the bit."""
    _seed(7)
    first = create().train()
    weights = copy.deepcopy(first.state_dict())  # statistics of a batch norm move with the first pass
    answer = _run(first, make_bags(first))
    _seed(7)
    second = create().train()
    _assert_equal_states(weights, second.state_dict(), "weights of the same seed")
    _assert_same(answer, _run(second, make_bags(second)), "answers of the same seed in training", bits=True)


@_clause
def evaluation_has_no_side_effects(create: Create) -> None:
    """In evaluation: no random number drawn, no state or input changed, the second call equal to the bit."""
    model = create().eval()
    bags = make_bags(model)
    given, state, generator = bags.x.clone(), copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, second = _run(model, bags), _run(model, bags)
    assert torch.equal(generator, torch.get_rng_state()), "evaluation draws random numbers (dropout left on?)"
    _assert_same(first, second, "the first and the second call in evaluation", bits=True)
    _assert_equal_states(state, model.state_dict(), "the state before and after evaluation")
    assert torch.equal(given, bags.x), "the features given were changed in place"
    assert not any(module.training for module in model.modules()), "evaluation switched a part to training"


@_clause
def state_dict_round_trip(create: Create) -> None:
    """A saved state, loaded into a model of another seed, gives the same answer to the bit."""
    model = create().eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    _seed(99)
    other = create().eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    bags = make_bags(model)
    _assert_same(_run(model, bags), _run(other, bags), "the model and its loaded copy", bits=True)


@_clause
def half_precision_is_finite(create: Create) -> None:
    """Under bfloat16 autocast, answers and gradients are finite, and attention still sums to 1 within 1 %."""
    model = create().train()
    bags = make_bags(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = _run(model, bags)
        objective = _objective(model, output)
    for part, value in _parts(output).items():
        assert value.isfinite().all(), f"{part} is not finite under bfloat16 autocast"
    _backward(objective)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), f"the gradient of {name!r} is not finite"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = _run(model.eval(), bags)
    if output.attention is not None:
        for b, error in enumerate(_errors_of_sum(output.attention, bags)):
            assert error < 0.01, f"attention of bag {b} misses a sum of 1 by {error:.3g} under bfloat16 autocast"


@_clause
def any_number_of_outputs(create: Create) -> None:
    """Where ``create`` takes ``classes``: with 1 (a risk, a number) and with 3 the outputs have that width.

    With 1 there is no class, training never calls ``training_loss``, and what the task sees has to teach
    every parameter alone: ``bag_logits`` where the model has them, the embedding where not.
    """
    if "classes" not in inspect.signature(create).parameters:
        return
    for classes in (1, 3):
        model = create(classes=classes).train()
        assert model.classes in (None, classes), f"{model.classes} embeddings for {classes} outputs"
        for seed in range(3):
            output = _run(model, make_bags(model, seed=seed))
            for part, value in _parts(output).items():
                assert value.isfinite().all(), f"{part} is not finite with {classes} outputs"
            seen = output.embedding if output.bag_logits is None else output.bag_logits
            width = seen.shape[1] if output.bag_logits is not None or model.classes else classes
            assert width == classes, f"{width} bag logits for {classes} outputs"
            weights = torch.randn(seen.shape, generator=torch.Generator().manual_seed(seed))
            _backward((seen.float() * weights).sum() if classes == 1 else _objective(model, output))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                reached = parameter.grad is not None and bool(parameter.grad.any())
                assert reached, f"with {classes} outputs nothing teaches parameter {name!r}"


@_clause
def memory_is_bounded(create: Create) -> None:
    """5,000 instances take at most ``MEMORY_MIB``, and twice the instances at most 2.5 times the memory."""
    half, whole = (_peak_mib(create().train(), instances) for instances in (MANY_INSTANCES // 2, MANY_INSTANCES))
    assert whole <= MEMORY_MIB, f"{MANY_INSTANCES} instances take {whole:.0f} MiB, more than {MEMORY_MIB}"
    assert whole <= 2.5 * half, (
        f"memory grows faster than the bag: {half:.0f} MiB for {MANY_INSTANCES // 2} instances, "
        f"{whole:.0f} for {MANY_INSTANCES}"
    )


@_clause
def rollout_is_as_declared(create: Create) -> None:
    """Where the card says ``rollout``, ``carry`` is linear, and rollout keeps what the model itself promises.

    That is: packed, padded, one by one and (order "invariant") in another order it is the same, one instance has some,
    and memory is bounded as for the model. Where the card does not say so, there is no ``carry``.
    """
    model = create().eval()
    if not model.card.rollout:
        own = type(model).carry is not Aggregator.carry
        assert not own, "the model has carry, but its card does not say rollout=True"
        return
    bags = make_bags(model)
    expected = _rollout(model, bags)
    assert expected.isfinite().all(), "rollout is not finite"
    a, b = torch.randn(2, len(bags.x))
    rest = (bags.x, bags.offsets, bags.grid, bags.edges)
    with torch.no_grad():
        parts = model.carry(a, *rest), model.carry(b, *rest)
        _assert_close(
            model.carry(2 * a - b, *rest), 2 * parts[0] - parts[1], "carry of 2 a - b and 2 carry(a) - carry(b)"
        )
        _assert_close(parts[0], segment_sum(expected * a, bags.offsets), "carry and what rollout says of it")
    x, mask = pad(bags.x, bags.offsets)
    padded = attention_rollout(model, x, mask=mask, grid=pad(bags.grid, bags.offsets)[0], edges=bags.edges)
    _assert_close(expected, pack(padded, mask)[0], "rollout of packed and padded bags")
    alone = torch.cat([_rollout(model, bags.bag(b)) for b in range(len(SIZES))])
    _assert_close(expected, alone, "rollout of packed bags and of the bags one by one")
    if model.card.order == "invariant":
        starts = zip(bags.offsets.tolist(), SIZES, strict=False)
        order = torch.cat([torch.randperm(size) + start for start, size in starts])
        _assert_close(expected[order], _rollout(model, bags.reordered(order)), "rollout in another order")
    one = float(_rollout(model, make_bags(model, (1,))))
    assert one > TOLERANCE, f"rollout of one instance is {one:.3g}: nothing of it arrives"
    long = make_bags(model, (MANY_INSTANCES,))
    live = LiveStorages([long.x, *model.parameters(), *model.buffers()])
    with live:
        _rollout(model, long)
    held = live.peak_bytes / 2**20
    assert held <= MEMORY_MIB, f"rollout of {MANY_INSTANCES} instances takes {held:.0f} MiB, more than {MEMORY_MIB}"


def check_whole_slide(
    create: Create, *, instances: int = WHOLE_SLIDE_INSTANCES, limit_mib: float = WHOLE_SLIDE_MIB
) -> None:
    """Check that forward and backward of a bag as long as a large slide stay within a memory.

    Not a clause: it takes seconds, and as much memory as it allows.

    Args:
        create: As :func:`check_aggregator`; small widths are quick.
        instances: N of the bag.
        limit_mib: What may be held at once, beside the model and its input.

    Raises:
        AssertionError: More was held.
    """
    with torch.random.fork_rng(devices=[]):
        _seed(0)
        held = _peak_mib(create().train(), instances)
    assert held <= limit_mib, f"{instances} instances take {held:.0f} MiB, more than {limit_mib:.0f}"


def _peak_mib(model: Aggregator, instances: int) -> float:
    bags = make_bags(model, (instances,))
    live = LiveStorages([bags.x, *model.parameters(), *model.buffers()])
    with live:
        _backward(_objective(model, _run(model, bags)))
    return live.peak_bytes / 2**20


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)


def _run(model: Aggregator, bags: Bags) -> AggregatorOutput:
    output = model(bags.x, offsets=bags.offsets, grid=bags.grid, edges=bags.edges)
    assert isinstance(output, AggregatorOutput), f"{type(output).__name__} returned, not AggregatorOutput"
    return output


def _rollout(model: Aggregator, bags: Bags) -> Tensor:
    return attention_rollout(model, bags.x, offsets=bags.offsets, grid=bags.grid, edges=bags.edges)


def _packed(output: AggregatorOutput, mask: Tensor) -> AggregatorOutput:
    """The output for padded bags, with attention and instance logits packed."""
    attention, logits = output.attention, output.instance_logits
    return AggregatorOutput(
        output.embedding,
        None if attention is None else pack(attention, mask)[0],
        output.bag_logits,
        None if logits is None else pack(logits, mask)[0],
        penalty=output.penalty,
    )


def _parts(output: AggregatorOutput) -> dict[str, Tensor]:
    named = {
        "embedding": output.embedding,
        "attention": output.attention,
        "bag_logits": output.bag_logits,
        "instance_logits": output.instance_logits,
        "penalty": output.penalty,
    }
    return {part: value for part, value in named.items() if value is not None}


def _errors_of_sum(attention: Tensor, bags: Bags) -> list[float]:
    """How far each bag's attention is from a sum of 1, in its worst map."""
    bags_attention = torch.split(attention.detach().float(), bag_sizes(bags.offsets))
    return [float((part.sum(dim=0) - 1).abs().max()) for part in bags_attention]


def _objective(model: Aggregator, output: AggregatorOutput) -> Tensor:
    """A scalar that depends on everything a task may use: all but attention, which is for looking at."""
    parts = {part: value.float() for part, value in _parts(output).items() if part != "attention"}
    weights = torch.Generator().manual_seed(0)
    terms = [(value * torch.randn(value.shape, generator=weights)).sum() for value in parts.values()]
    classes = model.classes or (2 if output.bag_logits is None else output.bag_logits.shape[1])
    own = model.training_loss(output, torch.arange(len(output.embedding)) % classes)
    assert own.ndim == 0, f"training_loss of shape {tuple(own.shape)}, not a scalar"
    assert own.isfinite(), "training_loss is not finite"
    return torch.stack(terms).sum() + own


def _backward(objective: Tensor) -> None:
    if objective.requires_grad:  # a model without parameters has nothing to learn
        objective.backward()  # type: ignore[no-untyped-call]


def _assert_same(a: AggregatorOutput, b: AggregatorOutput, what: str, *, bits: bool = False) -> None:
    first, second = _parts(a), _parts(b)
    assert first.keys() == second.keys(), f"{what} differ in what they have: {list(first)} and {list(second)}"
    for part, value in first.items():
        if bits:
            assert torch.equal(value, second[part]), f"{part} differs between {what}"
        else:
            _assert_close(value, second[part], f"{part} of {what}")


def _assert_close(a: Tensor, b: Tensor, what: str) -> None:
    assert a.shape == b.shape, f"{what} differ in shape: {tuple(a.shape)} and {tuple(b.shape)}"
    a, b = a.detach(), b.detach()
    difference, scale = float((a - b).abs().max()), max(1.0, float(a.abs().max()))
    assert difference <= TOLERANCE * scale, f"{what} differ by {difference:.3g}, more than {TOLERANCE * scale:.3g}"


def _assert_equal_states(a: dict[str, Any], b: dict[str, Any], what: str) -> None:
    assert a.keys() == b.keys(), f"{what} have different entries"
    for name, value in a.items():
        same = torch.equal(value, b[name]) if isinstance(value, Tensor) else value == b[name]
        assert same, f"{what} differ in {name!r}"
