"""Sources: from files of many kinds to tables of documents. Independent of Ray."""
