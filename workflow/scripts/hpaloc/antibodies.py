"""Names of antibodies."""

import re


def antibody_number(name: str) -> str:
    """``HPA004109`` and ``4109`` as ``4109``: the atlas's folders are the numbers of the names.

    Names of other makers stay as they are, without blanks around them.
    """
    match = re.fullmatch(r"(?:HPA|CAB)?0*([0-9]+)", name.strip())
    return match[1] if match else name.strip()
