"""The files of an endpoint's directory that say how its pools are made."""
