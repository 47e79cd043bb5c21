"""Names of the columns and of the roles; nothing else spells them."""

USER = "user_id"
ITEM = "item_id"
TIMESTAMP = "timestamp"
POSITION = "position"
ROLE = "role"

TRAIN = "train"
VALIDATION = "validation"
TEST = "test"

N_INTERACTIONS = "n_interactions"
N_HELD_OUT = "n_held_out"
TRAIN_LENGTH = "train_length"
POPULARITY_RATIO = "popularity_ratio"
