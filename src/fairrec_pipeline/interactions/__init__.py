"""From raw events to interactions with roles and groups; Ibis expressions, no Kedro."""
