"""An app whose nodes draw nothing by chance, so that they give the same answers again."""
