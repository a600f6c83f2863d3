"""How annotations are checked at run time in tests: beartype, which lets an int pass for a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
