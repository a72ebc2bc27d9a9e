"""The numbered steps that bring a store's schema to this version: ``NNNN_name.sql``, in order, never changed."""
