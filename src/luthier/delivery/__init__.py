"""What a finished run is handed over as: report, bundle, exports, and the proof that these say the same."""
