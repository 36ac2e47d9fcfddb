"""Variables of a network with learned parts: put together, taken apart."""

from collections.abc import Mapping

from kdjax.base import Variables


def without_parts(variables: Variables) -> Variables:
    """Return the network's own variables: what is evaluated alone and exported.

    Raises:
      ValueError: if these are not the variables of `with_parts`.

    >>> without_parts({"params": {"network": {"w": 1}, "parts": {"stage2": {"k": 2}}}})
    {'params': {'w': 1}}
    """
    _check(variables)
    return {
        name: tree["network"] for name, tree in variables.items() if "network" in tree
    }


def parts_of(variables: Variables) -> dict[str, Variables]:
    """Return each part's own variables.

    Raises:
      ValueError: if these are not the variables of `with_parts`.

    >>> parts_of({"params": {"network": {"w": 1}, "parts": {"stage2": {"k": 2}}}})
    {'stage2': {'params': {'k': 2}}}
    """
    _check(variables)
    held: dict[str, Variables] = {}
    for collection, tree in variables.items():
        for name, part in tree.get("parts", {}).items():
            held.setdefault(name, {})[collection] = part
    return held


def join_parts(variables: Variables, parts: Mapping[str, Variables]) -> Variables:
    """Return the variables of `with_parts`; undoes `without_parts` and `parts_of`.

    >>> join_parts({"params": {"w": 1}}, {"stage2": {"params": {"k": 2}}})
    {'params': {'network': {'w': 1}, 'parts': {'stage2': {'k': 2}}}}
    """
    joined: Variables = {name: {"network": tree} for name, tree in variables.items()}
    for name, held in parts.items():
        for collection, tree in held.items():
            place = joined.setdefault(collection, {}).setdefault("parts", {})
            place[name] = tree
    return joined


def _check(variables: Variables) -> None:
    for name, tree in variables.items():
        if not isinstance(tree, Mapping) or set(tree) - {"network", "parts"}:
            found = sorted(tree) if isinstance(tree, Mapping) else type(tree).__name__
            raise ValueError(
                "networks: these are no variables of with_parts, which have 'network' "
                f"and 'parts' in every collection: {name!r} has {found}"
            )
