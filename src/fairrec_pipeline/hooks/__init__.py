"""What happens around a run: data are prepared, arms are tracked."""
