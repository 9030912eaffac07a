"""Result folders: identity of a result, content of its files, and the only way to write and read them.

identity   what changes a number, as JSON: the key of a result
schema     the files of a result folder, typed
seal       files whose first line is a checksum of the rest
parts      rows of finished batches, while a run goes through the images
records    writing: one result, its rows, its summary
reader     reading: every command that shows a result goes through it
trust      which code a stored result may use
build      from a config's `_target_` to an object
environment  the code, packages and machine of a run
"""
