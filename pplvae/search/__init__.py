"""Each row's own guide: where it starts, how it is improved, when it is done."""
