"""The command line: parse, validate, call one public function, choose the exit code."""
