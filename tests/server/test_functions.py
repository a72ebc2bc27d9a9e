"""What a key leads to that somebody was given before its app was deployed anew."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from stoker.core import events as e
from stoker.core.pools import Pool
from stoker.server.functions import Functions
from stoker.store.base import Deployment
from stoker.store.memory import MemoryBacking, MemoryStore
from stoker.types import FunctionSpec, MethodSpec, OptionsSpec, ParameterSpec

from .harness import spec

SIZE = {"size": ParameterSpec("str", default="small")}


def functions(used: Collection[str] = ()) -> tuple[Functions, list[e.Event]]:
    decided: list[e.Event] = []
    return Functions(MemoryStore(), decided.append, lambda _: None, used.__contains__), decided


def deploy(known: Functions, version: int, *specs: FunctionSpec) -> list[str]:
    made = tuple(replace(one, run_id="", version=version) for one in specs)
    known.deployed(Deployment("app", version, 0.0, made, current=True))
    return [one.key for one in made]


def a_class(**changes: Any) -> FunctionSpec:
    given: dict[str, Any] = {"declared": SIZE, "parameters": {"size": "small"}, **changes}
    return replace(spec("C"), kind="class", methods={"m": MethodSpec()}, **given)


def configured(known: Functions, key: str, **parameters: Any) -> str:
    wanted = replace(known.specs[key], parameters=parameters)
    return known.register([wanted], app="app", run_id="")["C"]


def test_a_function_that_is_deployed_anew() -> None:
    known, decided = functions()
    (first,) = deploy(known, 1, spec("f"))
    (second,) = deploy(known, 2, spec("f", cpu=0.5))
    assert known.newest(first) == second
    assert e.FunctionReplaced(first, second) in decided
    deploy(known, 3, spec("g"))
    assert e.FunctionRetired(second) in decided
    assert known.newest(first) == first  # there is none of its name any more
    assert deploy(known, 1, spec("f")) == [first]  # a rollback
    assert known.newest(first) == first
    assert known.newest(second) == first


def test_an_instance_of_a_class_that_is_deployed_anew() -> None:
    known, decided = functions()
    (first,) = deploy(known, 1, a_class())
    large = configured(known, first, size="large")
    (second,) = deploy(known, 2, a_class(is_async=True))
    assert e.FunctionReplaced(first, second) in decided and e.FunctionRetired(large) in decided
    assert known.newest(first) == second
    now = known.specs[known.newest(large)]
    assert (now.parameters, now.is_async, now.version) == ({"size": "large"}, True, 2)
    assert known.newest(large) == known.newest(large)


def test_an_instance_that_is_in_use_is_handed_over_like_what_is_deployed() -> None:
    used: set[str] = set()
    known, decided = functions(used)
    (first,) = deploy(known, 1, a_class())
    large = configured(known, first, size="large")
    used.add(large)
    deploy(known, 2, a_class(is_async=True))
    second = known.newest(large)
    assert second != large and e.FunctionReplaced(large, second) in decided
    assert decided.index(e.FunctionReplaced(large, second)) > next(
        i for i, x in enumerate(decided) if isinstance(x, e.FunctionDeclared) and x.key == second
    ), "it is there before it is to take over"
    used.add(second)
    deploy(known, 3, a_class(declared={"size": ParameterSpec("int", default=1)}, parameters={"size": 1}))
    assert e.FunctionRetired(second) in decided, "the new class cannot have it"


def test_with_recreate_no_instance_waits_for_another() -> None:
    used: set[str] = set()
    known, decided = functions(used)
    (first,) = deploy(known, 1, a_class())
    used.add(large := configured(known, first, size="large"))
    made = (replace(a_class(is_async=True), run_id="", version=2),)
    known.deployed(Deployment("app", 2, 0.0, made, current=True, tags={"strategy": "recreate"}))
    assert e.FunctionRetired(large) in decided


def test_an_instance_that_the_new_class_cannot_have_is_not_another_one() -> None:
    known, _ = functions()
    (first,) = deploy(known, 1, a_class())
    large = configured(known, first, size="large")
    deploy(known, 2, a_class(declared={"size": ParameterSpec("int", default=1)}, parameters={"size": 1}))
    assert known.newest(large) == large
    more = {**SIZE, "rate": ParameterSpec("float", default=1.0)}
    deploy(known, 3, a_class(declared=more, parameters={"size": "small", "rate": 1.0}))
    assert known.specs[known.newest(large)].parameters == {"size": "large", "rate": 1.0}
    deploy(known, 4, a_class(declared={**SIZE, "rate": ParameterSpec("float", required=True)}))
    assert known.newest(large) == large


def test_what_has_other_options_stays_what_it_is() -> None:
    known, decided = functions()
    (first,) = deploy(known, 1, a_class())
    base = known.specs[first]
    wanted = replace(base, parameters={"size": "large"}, options=replace(base.options, cpu=0.125))
    other = known.register([wanted], app="app", run_id="")["C"]
    deploy(known, 2, a_class(is_async=True))
    assert known.newest(other) == other
    assert e.FunctionRetired(other) not in decided


def test_what_was_made_of_a_deployed_class_ends_with_the_last_who_has_made_it() -> None:
    known, decided = functions()
    (first,) = deploy(known, 1, a_class())
    large = configured(known, first, size="large")
    held = {("app", "")}
    known.retire_runs(held, held=[held])
    assert e.FunctionRetired(large) not in decided
    known.retire_runs(held, held=[set()])
    assert e.FunctionRetired(large) in decided


def test_a_template_has_no_pool() -> None:
    known, decided = functions()
    (key,) = deploy(known, 1, a_class(declared={"size": ParameterSpec("str", required=True)}, parameters={}))
    assert not decided
    assert configured(known, key, size="large") in {x.key for x in decided if isinstance(x, e.FunctionDeclared)}


def next_term(backing: MemoryBacking) -> tuple[Functions, list[e.Event]]:
    """Begin another term of a server on what the one before has left."""
    store, decided = MemoryStore(backing), list[e.Event]()
    epoch = store.begin_term()
    known = Functions(store, decided.append, lambda one: store.put_function(epoch, one), lambda key: False)
    known.load()
    return known, decided


def deploy_in(known: Functions, *specs: FunctionSpec) -> list[str]:
    """Deploy a version, and write it down."""
    store = known.store
    assert isinstance(store, MemoryStore)
    made = store.deploy(store.backing.epoch, "app", specs, now=0.0)
    known.deployed(made)
    return [one.key for one in made.functions]


def test_after_a_restart_an_instance_goes_on_with_the_newest_version_once_its_program_is_back() -> None:
    backing = MemoryBacking()
    known, _ = next_term(backing)
    (first,) = deploy_in(known, a_class())
    large = configured(known, first, size="large")
    wanted = known.specs[large]

    known, decided = next_term(backing)
    assert known.ensure(large) == wanted  # its worker is there again, and its program is not yet
    deploy_in(known, a_class(is_async=True))
    assert known.register([wanted], app="app", run_id="") == {"C": large}
    now = known.specs[known.newest(large)]
    assert (now.parameters, now.version) == ({"size": "large"}, 2)
    assert e.FunctionReplaced(large, now.key, is_older=True) in decided
    decided.clear()
    known.retire_unclaimed()
    assert not decided

    for comes in (known.newest, known.ensure):  # by a call of a program that says nothing more; by its worker
        known, decided = next_term(backing)
        comes(large)
        assert known.newest(large) == now.key
        assert e.FunctionRetired(large) in [*decided, *known.outdated_pools()]


def test_what_nobody_claims_after_a_restart_is_let_go_until_it_is_called_again() -> None:
    backing = MemoryBacking()
    known, _ = next_term(backing)
    (first,) = deploy_in(known, a_class())
    large = configured(known, first, size="large")
    other = known.register([replace(known.specs[first], options=OptionsSpec(cpu=0.125))], app="app", run_id="")["C"]
    specs = {key: known.specs[key] for key in (large, other)}

    known, decided = next_term(backing)
    for key in (first, *specs):
        known.ensure(key)
    known.register([specs[other]], app="app", run_id="")
    known.retire_unclaimed()
    assert [event for event in decided if isinstance(event, e.FunctionRetired)] == [e.FunctionRetired(large)]
    decided.clear()
    assert known.newest(large) == large and known.ensure(large) == specs[large]
    assert [event.key for event in decided if isinstance(event, e.FunctionDeclared)] == [large]
    known, decided = next_term(backing)
    assert known.known(large) == known.ensure(large) == specs[large]
    assert large in [event.key for event in decided if isinstance(event, e.FunctionDeclared)]


def test_an_instance_first_asked_for_of_a_version_that_goes_on_is_that_versions() -> None:
    known, _ = next_term(MemoryBacking())
    (first,) = deploy_in(known, a_class())
    deploy_in(known, a_class(is_async=True))
    going_on = Pool(first, known.specs[first])
    going_on.goes_on_for = "the next one, which is not ready"
    known.pools = {first: going_on}
    large = configured(known, first, size="large")
    assert known.newest(large) == large


def test_what_was_made_of_an_app_that_is_stopped_is_not_there_again_after_a_restart() -> None:
    backing = MemoryBacking()
    known, _ = next_term(backing)
    (first,) = deploy_in(known, a_class())
    wanted = known.specs[configured(known, first, size="large")]
    known.store.undeploy(backing.epoch, "app")
    known, decided = next_term(backing)
    known.register([wanted], app="app", run_id="")
    assert not decided
