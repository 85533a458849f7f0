# Strings on standard input, each a line of JSON; for each, libpq's options or libpq's error.
import json
import sys

import psycopg
from psycopg.conninfo import conninfo_to_dict

print(json.dumps({"libpq": psycopg.pq.version()}))
for line in sys.stdin:
    text = json.loads(line)
    # psycopg gives ints for a few options; PQconninfoParse is what is meant.
    try:
        options = psycopg.pq.Conninfo.parse(text.encode())
        found = {o.keyword.decode(): o.val.decode() for o in options if o.val is not None}
        kept = {name: str(value) for name, value in conninfo_to_dict(text).items()}
        assert found == kept, (found, kept)
        print(json.dumps({"options": found}))
    except (psycopg.Error, UnicodeDecodeError) as error:
        print(json.dumps({"error": str(error)}))
