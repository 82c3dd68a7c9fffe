"""Is the data that lies in a folder what it should be: records, pictures, and every byte of every file.

`findings` says what can be wrong, `folder` looks at records and the pictures that they name, `manifest` remembers the
files of a folder by checksum. Imports no torch.
"""
