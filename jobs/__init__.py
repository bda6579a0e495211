"""What users submit, one file a verb: parse, recipe, call the engine, say where the result is."""
