"""The folder that octify writes: the only place that knows its files' names."""
