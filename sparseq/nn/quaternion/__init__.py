"""Quaternion layers: features in four blocks [r | i | j | k], weights with four components."""
