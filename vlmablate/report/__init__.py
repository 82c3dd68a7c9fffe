"""From a finished study to its tables, figures, notebook and page. Reads result files only; never imports
torch."""
