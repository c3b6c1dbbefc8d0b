"""Which functions may run: by id, by owner, by two lists."""

from __future__ import annotations

from uuid import UUID, uuid4

from headrace.bus.functions.allow_list import AllowList
from headrace.endpoint.config import EndpointConfig
from headrace.endpoint.configuration.pool_config import PoolConfig

ADA, BOB = "urn:headrace:user:ada", "urn:headrace:user:bob"


def test_without_a_list_everything_may_run() -> None:
    assert AllowList().permits(uuid4(), "")
    assert AllowList().may_permit(uuid4())


def test_a_function_may_run_by_its_id_or_by_its_owner() -> None:
    named, other = uuid4(), uuid4()
    both = AllowList.of([named], [ADA])
    assert both.permits(named, BOB)
    assert both.permits(other, ADA)
    assert not both.permits(other, BOB)
    assert both.may_permit(other), "that is for its owner to say"
    assert not AllowList.of([named], None).may_permit(other)
    assert not AllowList.of([named], None).permits(other, ADA)
    assert not AllowList.of(None, [ADA]).permits(other, BOB)


def test_empty_lists_let_nothing_run() -> None:
    for nothing in (AllowList.of([], None), AllowList.of(None, []), AllowList.of([], [])):
        assert not nothing.permits(uuid4(), ADA)
        assert not nothing.may_permit(uuid4())


def test_who_is_unknown_owns_nothing() -> None:
    assert not AllowList.of(None, [ADA]).permits(uuid4(), "")


def test_a_list_is_the_same_after_its_way_to_the_pool() -> None:
    for each in (AllowList(), AllowList.of([uuid4()], [ADA]), AllowList.of([], None)):
        assert AllowList.of_document(each.document()) == each


def test_a_template_narrows_what_config_yaml_allows_and_never_widens_it() -> None:
    named, other = uuid4(), uuid4()
    endpoint = EndpointConfig.parse(f"allowed_function_owners: [{ADA}]")
    pool = PoolConfig.of_endpoint(endpoint, {}).parse(f"allowed_functions: [{named}]", name="rendered")

    def may_run(function: UUID, owner: str) -> bool:
        return all(each.permits(function, owner) for each in pool.allow_lists)

    assert may_run(named, ADA)
    assert not may_run(named, BOB)
    assert not may_run(other, ADA)
    assert PoolConfig.of_endpoint(EndpointConfig.parse(""), {}).parse("", name="rendered").allow_lists == ()
