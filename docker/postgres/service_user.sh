#!/bin/bash
# Makes whom dari logs in as, when the database is made: no superuser, and without a right until `dari migrate` gives it.
set -euo pipefail
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  --set password="$(cat /run/secrets/service_password)" <<'SQL'
CREATE ROLE dari_service LOGIN NOINHERIT PASSWORD :'password';
SQL
