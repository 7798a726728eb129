"""The bits of a shard in RAM. Nothing else imports faiss."""
