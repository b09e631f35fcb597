"""A typing session as pure logic: latest wins, sequence numbers never go backwards. No I/O."""
