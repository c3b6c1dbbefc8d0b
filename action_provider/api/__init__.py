"""REST under `/api/v1`: each module exports its `ROUTES`."""
