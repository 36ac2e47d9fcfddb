"""Run all laws of one loss together: compiled programs are most of the time."""


def pytest_collection_modifyitems(items):
    def first_seen(item):
        law = getattr(item, "callspec", None) and item.callspec.params.get("law")
        return names.index(law.name) if law is not None else len(names)

    laws = [i.callspec.params.get("law") for i in items if hasattr(i, "callspec")]
    names = list(dict.fromkeys(law.name for law in laws if law is not None))
    items.sort(key=first_seen)
