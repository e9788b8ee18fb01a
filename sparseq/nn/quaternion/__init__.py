"""Quaternion layers: features in four blocks [r | i | j | k], weights of four components."""
