"""Names of columns, roles, splits and groups; nothing else spells them."""

USER = "user_id"
ITEM = "item_id"
TIMESTAMP = "timestamp"
FILE_ROW = "file_row"
POSITION = "position"
ROLE = "role"

TRAIN = "train"
VALIDATION = "validation"
TEST = "test"

N_INTERACTIONS = "n_interactions"
N_HELD_OUT = "n_held_out"
TRAIN_LENGTH = "train_length"
POPULARITY_RATIO = "popularity_ratio"

STANDARD_SPLITS = ("pop33", "seq33")
"""The balanced splits: the worst group is looked for among their groups."""
ATOMIC = "atomic"
"""Their crossing, with groups such as `niche-short` (paper, section 3.3)."""

POPULARITY_GROUPS = ("niche", "diverse", "popular")
LENGTH_GROUPS = ("short", "medium", "long")
UNKNOWN_LABEL = "unknown"
