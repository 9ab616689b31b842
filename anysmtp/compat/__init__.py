"""The shapes of other libraries over this one, so that programs move by changing an import."""
