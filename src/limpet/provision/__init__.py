"""What this device offers a node, found by trying: for the node itself and for `limpet doctor`."""
