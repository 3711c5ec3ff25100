"""Is a changed model still the model? Its layers beside the stock ones, on ordinary text, in units of their noise."""
