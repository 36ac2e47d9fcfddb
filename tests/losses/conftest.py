"""Run all laws of one loss together: compiled programs are most of the time."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    def law_of(item):
        return getattr(item, "callspec", None) and item.callspec.params.get("law")

    names = list(dict.fromkeys(law_of(i).name for i in items if law_of(i) is not None))

    def first_seen(item):
        law = law_of(item)
        return names.index(law.name) if law is not None else len(names)

    items.sort(key=first_seen)
