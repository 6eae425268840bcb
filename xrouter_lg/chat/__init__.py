"""The router as a LangChain chat model, and what it needs of LangGraph's graphs: nothing."""
