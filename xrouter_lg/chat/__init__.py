"""The router as a LangChain chat model, an agent's middleware and a decision model."""
