"""The article's claims, measured: one module a row of docs/claims.md."""
