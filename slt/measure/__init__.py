"""One call a question: a model and its data in, numbers with errors and a verdict out."""
