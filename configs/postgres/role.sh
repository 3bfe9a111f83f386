# Makes the ledger's role and database; the server's image runs this at its very first
# start. Afterwards the superuser has no password: nobody gets in as that from outside
# its container, and the ledger's role can do nothing but own its databases, of which
# one is for the demo.
psql --no-psqlrc --set ON_ERROR_STOP=1 --set password="$POSTGRES_PASSWORD" \
    --username postgres --dbname postgres <<'SQL'
CREATE ROLE pipeline LOGIN PASSWORD :'password';
CREATE DATABASE pipeline OWNER pipeline ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE demo OWNER pipeline ENCODING 'UTF8' TEMPLATE template0;
REVOKE CONNECT ON DATABASE pipeline, demo FROM PUBLIC;
ALTER ROLE postgres PASSWORD NULL;
SQL
