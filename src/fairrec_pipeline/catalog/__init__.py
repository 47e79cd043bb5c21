"""What the catalog needs beyond kedro-datasets."""
