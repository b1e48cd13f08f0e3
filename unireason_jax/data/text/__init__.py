"""The words side: tokenizers, and the vocabularies they are made of."""
