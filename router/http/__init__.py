"""HTTP: what a request must be, who may send it, and how it is answered."""
