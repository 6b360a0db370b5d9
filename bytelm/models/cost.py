"""What a model costs: parameters, and operations as its formula and as the compiler count them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from bytelm import models
from bytelm.parameters import Params, flat, params_of, with_params

TABLES = ("table", "ngrams", "head")  # the parameters, by name, with a row for each symbol or hash of some
EMBEDDING = (
    "table",
    "ngrams",
    "lexical",
    "places",
    "pool",
    "reader",
)  # those that make vectors of bytes and of words


class Parameters(NamedTuple):
    total: int
    tables: int  # of these, in tables of symbols, coming in and going out

    @property
    def body(self) -> int:
        return self.total - self.tables


def parameters(config: Any) -> Parameters:
    """The sizes of a model, from its config; nothing is computed."""
    params = _params(config)[1]
    tables = {path: x for path, x in flat(params).items() if path.split("/")[-1] in TABLES}
    return Parameters(size_of(params), size_of(tables))


def size_of(params: Params) -> int:
    """How many numbers a tree of parameters, which may be abstract, holds."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def embedding_parameters(config: Any) -> int:
    """What a model spends to make vectors of text: tables coming in, and what pools bytes to words."""
    params = _params(config)[1]
    return size_of({name: params[name] for name in EMBEDDING if name in params})


def embedding_share(config: Any, *, vocabulary: int, width: int) -> float:
    """`embedding_parameters` over those of a tokenized model's table, `vocabulary` x `width`."""
    return embedding_parameters(config) / (vocabulary * width)


class Flops(NamedTuple):
    """Of the forward pass, a symbol."""

    analytic: float  # matrices and attention: `models.flops`
    compiler: float  # every operation, before the compiler makes any simpler


def flops(config: Any, length: int) -> Flops:
    """Operations a symbol of a row of `length` of them; nothing is computed, and nothing compiled.

    The compiler's count is above the formula's by norms, softmax, positions, and by keys behind the mask that
    blocks of attention compute all the same. It is whole for rows of at most `bytelm.attention.blocks.BLOCK`
    symbols: how many blocks of longer ones are read the data decide, and the compiler counts one.
    """
    model, params = _params(config)
    row_1T = jax.ShapeDtypeStruct((1, length), jnp.int32)
    batch = dict.fromkeys(("inputs", "targets", "documents"), row_1T)
    count = compiler_flops(lambda params, batch: with_params(model, params).nats(batch), params, batch)
    return Flops(models.flops(config, length), count / length)


def compiler_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """The compiler's count of the operations of `function` of these arguments, which may be abstract.

    Its own analysis counts the body of a loop once, however often it runs, so scans are unrolled first.
    """
    program = _unrolled(jax.make_jaxpr(function)(*arguments))
    lowered = jax.jit(core.jaxpr_as_fun(program)).lower(*jax.tree.leaves(arguments))
    counted = lowered.cost_analysis()
    if counted is None:
        raise NotImplementedError(
            f"the compiler for {jax.default_backend()} does not count operations; use the CPU's"
        )
    return float(counted["flops"])


def _unrolled(x: Any) -> Any:
    """A program, or a parameter of one of its operations, with every scan in it unrolled."""
    if isinstance(x, core.ClosedJaxpr) and x.jaxpr is not x:  # newer jax has one class for both
        return core.ClosedJaxpr(_unrolled(x.jaxpr), x.consts)
    if type(x) in (tuple, list):  # not named tuples, which hold no programs
        return type(x)(map(_unrolled, x))
    if not isinstance(x, core.Jaxpr):
        return x
    equations = []
    for equation in x.eqns:
        values = {name: _unrolled(value) for name, value in equation.params.items()}
        if equation.primitive.name == "scan":
            values["unroll"] = max(1, values["length"])
        equations.append(equation.replace(params=values))
    return x.replace(eqns=equations)


def _params(config: Any) -> tuple[Any, Params]:
    model = jax.eval_shape(lambda: models.build(config, jax.random.key(0)))
    return model, params_of(model)
