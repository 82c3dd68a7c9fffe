"""Finished runs told to an experiment tracker, once each, from the files in the results folder."""
