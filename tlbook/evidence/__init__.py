"""What a comparison says and how surely: effects, intervals, the ledger, figures."""
