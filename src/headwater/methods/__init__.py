"""What is computed of a training image and of a question, method by method, as tables."""
