"""Network bodies that know no probability: tensors in, tensors out, and a condition `c` (B, c_dim) or None."""
