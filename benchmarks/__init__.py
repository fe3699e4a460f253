"""What Limpet promises, measured: each figure beside a peer's from the same run. See README.md."""
